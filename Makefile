# make demo   builds, fetches a model, starts the daemon, loads the model and streams an answer
# make test   everything that must hold before a change lands
# make gpu-check  a real model on the interpreted GPU against the CPU (minutes)
# make devices  the test devices: libraries that stand in for a GPU's runtime (tests/devices)
# make build  release binaries in target/release
# make install DESTDIR=/somewhere PREFIX=/usr   after `make build`; a configuration that is there stays

CARGO ?= cargo
PYTHON ?= python3
PREFIX ?= /usr
DESTDIR ?=
TARGET := $(or $(CARGO_TARGET_DIR),target)
VENV := .venv
VPY := $(VENV)/bin/python
DEVICES := $(TARGET)/devices
BINARIES := $(TARGET)/release/rocmforged $(TARGET)/release/forgectl

.PHONY: demo test test-rust test-client test-gpu gpu-check devices toolchain lint build install bench clean

build:
	$(CARGO) build --release --locked --bins

# The model of the demonstration; `make demo MODEL=/path/to.gguf` for one's own.
demo: build $(VENV)/ready-base
	@model="$(MODEL)"; [ -n "$$model" ] || model=$$($(VPY) tests/models/fetch.py qwen2.5-coder-1.5b) || exit 1; \
	$(VPY) tests/demo.py --rocmforged $(TARGET)/release/rocmforged --forgectl $(TARGET)/release/forgectl --model "$$model"

# One target suffices for tests, and is what the test devices are; releases have all of them.
test test-rust test-client test-gpu lint: export ROCMFORGE_GPU_TARGETS := gfx1100

test: lint test-rust test-gpu test-client

lint: toolchain
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

test-rust: toolchain $(VENV)/ready-test
	$(VPY) tests/models/fetch.py
	$(VPY) tests/models/make_tiny.py
	$(CARGO) test --locked

test-client: $(VENV)/ready-test build devices
	$(VPY) tests/models/fetch.py
	$(VPY) tests/models/make_tiny.py
	ROCMFORGE_TEST_GPU=$(abspath $(DEVICES))/host/libamdhip64.so $(VPY) -m unittest discover -v -s tests/client -t tests/client
	ROCMFORGE_TEST_GPU=$(abspath $(DEVICES))/rdna3/libamdhip64.so $(VPY) -m unittest discover -v -s tests/client -t tests/client -p test_gpu.py

# Every kernel on both test devices, and the devices themselves.
test-gpu: $(VENV)/ready-test devices
	cd tests/devices/rdna3 && CARGO_TARGET_DIR=$(abspath $(TARGET))/rdna3 $(CARGO) test --release --locked
	$(VPY) tests/devices/kernels/run.py --library $(DEVICES)/host/libamdhip64.so --objects $(DEVICES)/objects
	$(VPY) tests/devices/kernels/run.py --library $(DEVICES)/rdna3/libamdhip64.so --objects $(DEVICES)/objects

# A real model on the interpreter of gfx1100 code, against the CPU: minutes, not part of `make test`.
gpu-check: export ROCMFORGE_GPU_TARGETS := gfx1100
gpu-check: $(VENV)/ready-test build devices
	$(VPY) tests/models/fetch.py
	$(VPY) tests/devices/gpu_check.py --library $(DEVICES)/rdna3/libamdhip64.so

devices: toolchain
	kernels/compile.sh $(DEVICES)/objects gfx1100
	tests/devices/host/build.sh $(DEVICES)/host
	cd tests/devices/rdna3 && CARGO_TARGET_DIR=$(abspath $(TARGET))/rdna3 $(CARGO) build --release --locked
	install -D $(TARGET)/rdna3/release/libamdhip64.so $(DEVICES)/rdna3/libamdhip64.so

toolchain:
	sh tests/devices/toolchain.sh

$(VENV)/ready-base:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/ready-test: $(VENV)/ready-base tests/requirements.txt
	$(VPY) -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

# What was built is taken as it is: root, who installs, may have no Rust.
install: $(BINARIES)
	install -Dm755 -t $(DESTDIR)$(PREFIX)/bin $(BINARIES)
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/|$(PREFIX)/|' systemd/rocmforged.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/rocmforged.service
	install -Dm644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system systemd/rocmforged-admin.socket
	install -Dm644 systemd/rocmforge-sysusers.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/rocmforge.conf
	install -Dm644 -t $(DESTDIR)$(PREFIX)/share/doc/rocmforge LICENSE-MIT LICENSE-APACHE README.md docs/*.md \
		etc/rocmforge/rocmforged.toml
	[ -e $(DESTDIR)/etc/rocmforge/rocmforged.toml ] || \
		install -Dm644 -t $(DESTDIR)/etc/rocmforge etc/rocmforge/rocmforged.toml

$(BINARIES):
	$(MAKE) build

clean:
	$(CARGO) clean
	rm -rf $(VENV)
