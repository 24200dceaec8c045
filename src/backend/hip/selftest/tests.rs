//! That the cases cover every kernel, fit, and are what kernels take.

use std::collections::BTreeSet;

use super::*;
use crate::backend::hip::metadata::CodeObject;
use crate::backend::hip::objects;

#[test]
fn every_kernel_of_the_build_is_tested() {
    let mut seen = BTreeSet::new();
    for target in objects::TARGETS {
        for object in objects::for_target(target).expect("the archive") {
            for info in CodeObject::read(&object).expect("sound").kernels {
                let cases = cases(&info.name, 0x1000);
                assert!(!cases.is_empty(), "no case tests {}", info.name);
                for case in cases {
                    assert!(case.image.len() <= IMAGE_BYTES, "{}: {} bytes", info.name, case.image.len());
                    assert!(!case.wants.is_empty() && !case.what.is_empty(), "{}", info.name);
                    for want in &case.wants {
                        assert_eq!(want.numbers.len(), want.within.len(), "{}: {}", info.name, want.name);
                        assert!(want.numbers.iter().all(|x| x.is_finite()), "{}: {}", info.name, want.name);
                    }
                    let packed = launch::pack(&info, case.block, &case.args, &mut Vec::new());
                    packed.unwrap_or_else(|e| panic!("{}: {e}", info.name));
                }
                seen.insert(info.name);
            }
        }
    }
    assert_eq!(seen.is_empty(), objects::TARGETS.is_empty());
    assert!(cases("gemv_q9_9_c1", 0).is_empty() && cases("warp_drive", 0).is_empty());
}
