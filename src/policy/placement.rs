//! Which device a model goes to, and why: the reason is what `ps`, `show` and `why` print.

use thiserror::Error;

use super::human;

/// What the operator or the request wants (`device.use`, `load --device`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Use {
    /// A GPU if one can hold the model, else the CPU.
    #[default]
    Auto,
    /// A GPU or nothing.
    Gpu,
    /// The CPU.
    Cpu,
}

impl Use {
    /// `auto`, `gpu`, `cpu`.
    pub fn parse(s: &str) -> Option<Self> {
        match s {
            "auto" => Some(Use::Auto),
            "gpu" => Some(Use::Gpu),
            "cpu" => Some(Use::Cpu),
            _ => None,
        }
    }
}

/// Kind of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteKind {
    /// Host memory and the CPU's threads.
    Cpu,
    /// A GPU with memory of its own.
    Gpu,
}

/// A device as this policy sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// `cpu`, `gpu0`.
    pub id: String,
    /// Kind.
    pub kind: SiteKind,
    /// Its budget in bytes.
    pub budget: u64,
    /// Bytes of it that nothing fixed (pinned) holds.
    pub available: u64,
    /// Bytes that the model would need there.
    pub need: u64,
    /// Why it cannot be used at all, if so.
    pub unusable: Option<String>,
}

/// Where a model goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Index of the device.
    pub site: usize,
    /// For people.
    pub reason: String,
}

/// Why there is no place.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PlacementError {
    /// A GPU was demanded and there is none that works.
    #[error("device `gpu` was asked for, but {0}")]
    NoGpu(String),
    /// No device at all.
    #[error("no device can run models: {0}")]
    NoDevice(String),
}

/// Chooses the device for a model. A device on which the model could not fit even
/// if everything unpinned left is passed over in favour of the CPU, unless it was demanded: then
/// admission refuses there, with numbers.
///
/// # Errors
/// [`PlacementError`], which names every device that was passed over.
pub fn place(sites: &[Site], wanted: Use) -> Result<Placement, PlacementError> {
    let mut passed: Vec<String> = Vec::new();
    let found = |i: usize, reason: String| Ok(Placement { site: i, reason });
    if wanted != Use::Cpu {
        let mut demanded = None;
        for (i, s) in sites.iter().enumerate().filter(|(_, s)| s.kind == SiteKind::Gpu) {
            match &s.unusable {
                Some(why) => passed.push(format!("{}: {why}", s.id)),
                None if s.need <= s.available => {
                    let pick = if wanted == Use::Gpu { "asked for" } else { "fits" };
                    return found(
                        i,
                        format!("{} {pick}: {} needed, {} can be had", s.id, human(s.need), human(s.available)),
                    );
                }
                None => {
                    passed.push(format!("{}: {} needed, {} can be had", s.id, human(s.need), human(s.available)));
                    demanded = demanded.or(Some(i));
                }
            }
        }
        if wanted == Use::Gpu {
            return match demanded {
                Some(i) => found(i, "gpu asked for".to_owned()),
                None if passed.is_empty() => Err(PlacementError::NoGpu("there is no usable GPU".to_owned())),
                None => Err(PlacementError::NoGpu(passed.join("; "))),
            };
        }
    }
    match sites.iter().enumerate().find(|(_, s)| s.kind == SiteKind::Cpu) {
        Some((i, s)) if s.unusable.is_none() => {
            let reason = match (wanted, passed.is_empty()) {
                (Use::Cpu, _) => "cpu asked for".to_owned(),
                (_, true) => "no GPU is used".to_owned(),
                (_, false) => passed.join("; "),
            };
            found(i, reason)
        }
        Some((_, s)) => {
            passed.push(format!("{}: {}", s.id, s.unusable.as_deref().unwrap_or_default()));
            Err(PlacementError::NoDevice(passed.join("; ")))
        }
        None => Err(PlacementError::NoDevice(if passed.is_empty() {
            "none was found".to_owned()
        } else {
            passed.join("; ")
        })),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn site(id: &str, kind: SiteKind, available: u64, unusable: Option<&str>) -> Site {
        Site { id: id.to_owned(), kind, budget: available, available, need: 50, unusable: unusable.map(str::to_owned) }
    }

    #[test]
    fn the_reason_names_what_was_passed_over() {
        let cpu = site("cpu", SiteKind::Cpu, 100, None);
        let p = place(&[site("gpu0", SiteKind::Gpu, 10, None), cpu.clone()], Use::Auto).expect("the CPU");
        assert_eq!((p.site, p.reason.as_str()), (1, "gpu0: 50 B needed, 10 B can be had"));
        let p = place(&[site("gpu0", SiteKind::Gpu, 60, None), cpu.clone()], Use::Auto).expect("the GPU");
        assert_eq!(p.site, 0);
        let e = place(&[site("gpu0", SiteKind::Gpu, 60, Some("/dev/kfd: permission denied")), cpu.clone()], Use::Gpu);
        assert_eq!(
            e.expect_err("demanded").to_string(),
            "device `gpu` was asked for, but gpu0: /dev/kfd: permission denied"
        );
        assert_eq!(
            place(std::slice::from_ref(&cpu), Use::Auto).expect("admission decides later").reason,
            "no GPU is used"
        );
    }

    proptest! {
        #[test]
        fn a_choice_is_allowed_and_usable(
            sites in prop::collection::vec((any::<bool>(), 0u64..100, any::<bool>()), 0..6),
            wanted in prop_oneof![Just(Use::Auto), Just(Use::Gpu), Just(Use::Cpu)],
        ) {
            let sites: Vec<Site> = sites.iter().enumerate().map(|(i, &(gpu, available, broken))| {
                site(&format!("d{i}"), if gpu { SiteKind::Gpu } else { SiteKind::Cpu }, available, broken.then_some("broken"))
            }).collect();
            if let Ok(p) = place(&sites, wanted) {
                let s = &sites[p.site];
                prop_assert!(s.unusable.is_none() && !p.reason.is_empty());
                match wanted {
                    Use::Gpu => prop_assert_eq!(s.kind, SiteKind::Gpu),
                    Use::Cpu => prop_assert_eq!(s.kind, SiteKind::Cpu),
                    Use::Auto => prop_assert!(s.kind == SiteKind::Cpu || s.need <= s.available),
                }
            } else if wanted != Use::Gpu {
                let first_cpu = sites.iter().find(|s| s.kind == SiteKind::Cpu);
                prop_assert!(first_cpu.is_none_or(|s| s.unusable.is_some()));
            }
        }
    }
}
