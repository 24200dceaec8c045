//! The two real models: how quickly they load, and that their memory comes back.

use std::time::{Duration, Instant};

use super::{MIB, folder, generate, start};

/// glibc raises its threshold for separate mappings with the largest piece that was freed, and
/// then keeps what models leave behind. A daemon fixes it at its start; a test by its environment.
const TUNABLES: &str = "glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072";

#[test]
fn a_model_s_private_memory_comes_back() {
    let program = std::env::current_exe().expect("this test");
    let mut run = std::process::Command::new(program);
    run.args([
        "--exact",
        "real::a_warm_gigabyte_is_ready_quickly_and_its_private_memory_comes_back",
        "--ignored",
        "--nocapture",
    ]);
    let output = run.env("GLIBC_TUNABLES", TUNABLES).output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    println!("{text}");
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by a_model_s_private_memory_comes_back, which sets its environment"]
async fn a_warm_gigabyte_is_ready_quickly_and_its_private_memory_comes_back() {
    let (budget, registry) = start(&folder(), 8192 * MIB);
    let qwen = "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M";
    let gemma = "gemma-3-270m-Q4_K_M";
    // Once for the page cache, and so that the allocator has what it keeps.
    registry.lease(qwen).await.expect("loads");
    registry.evict(qwen, false, None).await.expect("is loaded");
    let idle = registry.status().await.expect("answers").private_bytes;
    let began = Instant::now();
    let lease = registry.lease(qwen).await.expect("loads");
    let loaded = began.elapsed();
    let other = registry.lease(gemma).await.expect("both at once");
    // Generous for a slow test build on a shared machine; a release build takes a fraction.
    assert!(loaded < Duration::from_secs(4), "a warm load took {loaded:?}");
    let (text, _) = generate(&lease, lease.model.tokenizer.encode("1 2 3 4 5", true, false), 4).await.expect("runs");
    let text = lease.model.tokenizer.decode(&text, false);
    assert!(String::from_utf8_lossy(&text).contains('6'), "{}", String::from_utf8_lossy(&text));
    generate(&other, vec![2, 9259], 4).await.expect("runs");
    let status = registry.status().await.expect("answers");
    let caches: u64 = status.models.iter().filter_map(|m| m.bytes).map(|b| b.cache).sum();
    let over = status.private_bytes.saturating_sub(caches);
    println!(
        "load {loaded:?}; idle {} MiB, loaded {} MiB, caches {} MiB",
        idle / MIB,
        status.private_bytes / MIB,
        caches / MIB
    );
    assert!(over <= 300 * MIB, "private memory is caches plus {} MiB", over / MIB);
    // What the ledger says besides mapped weights is no less than what is really used.
    let ledger: u64 = status.models.iter().filter_map(|m| m.bytes).map(|b| b.cache + b.activations + b.tables).sum();
    assert!(
        status.private_bytes - idle <= ledger + 32 * MIB,
        "{} MiB used, {} in the ledger",
        (status.private_bytes - idle) / MIB,
        ledger / MIB
    );
    drop((lease, other));
    registry.evict(gemma, false, None).await.expect("is loaded");
    let evicted = registry.evict(qwen, false, None).await.expect("is loaded");
    println!("{evicted:?}");
    assert_eq!(budget.used(), 0);
    assert!(
        evicted.private_after <= idle + 24 * MIB,
        "{} MiB before, {} after",
        idle / MIB,
        evicted.private_after / MIB
    );
}
