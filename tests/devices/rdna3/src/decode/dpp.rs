//! DPP controls: which lane each lane reads.

use crate::inst::Dpp;

fn numbers(text: &str) -> Option<Vec<u8>> {
    text.strip_prefix('[')?.strip_suffix(']')?.split(',').map(|n| n.trim().parse().ok()).collect()
}

fn hex(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(h) => u32::from_str_radix(h, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Source lanes of one control; 255 where the source lies outside of the row.
fn lanes(control: &str) -> Option<[u8; 32]> {
    let row = |f: &dyn Fn(i32) -> i32| -> [u8; 32] {
        std::array::from_fn(|l| match f(l as i32 & 15) {
            k @ 0..=15 => (l as u8 & 16) | k as u8,
            _ => 255,
        })
    };
    let (name, value) = control.split_once(':').unwrap_or((control, ""));
    let count = || hex(value).map(|n| n as i32);
    Some(match name {
        "quad_perm" => {
            let q = numbers(value)?;
            row(&|k| (k & !3) | i32::from(q[k as usize & 3]))
        }
        "dpp8" => {
            let q = numbers(value)?;
            row(&|k| (k & !7) | i32::from(q[k as usize & 7]))
        }
        "row_mirror" => row(&|k| 15 - k),
        "row_half_mirror" => row(&|k| (k & 8) | (7 - (k & 7))),
        "row_share" => {
            let n = count()?;
            row(&|_| n)
        }
        "row_xmask" => {
            let n = count()?;
            row(&|k| k ^ n)
        }
        "row_shl" => {
            let n = count()?;
            row(&|k| k + n)
        }
        "row_shr" => {
            let n = count()?;
            row(&|k| k - n)
        }
        "row_ror" => {
            let n = count()?;
            row(&|k| (k - n) & 15)
        }
        _ => return None,
    })
}

/// The controls among an instruction's modifiers; those understood are removed from the list.
pub fn parse(modifiers: &mut Vec<String>) -> Option<Dpp> {
    let at = modifiers.iter().position(|m| lanes(m).is_some())?;
    let control = modifiers.remove(at);
    let eight = control.starts_with("dpp8");
    let mut dpp = Dpp { from: lanes(&control)?, mask: !0, bound_zero: eight, fetch_inactive: false, source: 0 };
    modifiers.retain(|m| {
        let Some((name, value)) = m.split_once(':') else { return true };
        let Some(v) = hex(value) else { return true };
        match name {
            // Bit r lets row r of 16 lanes through; bit b lets bank b, four lanes of every row.
            "row_mask" => (0..32).filter(|l| v >> (l / 16) & 1 == 0).for_each(|l| dpp.mask &= !(1 << l)),
            "bank_mask" => (0..32).filter(|l| v >> (l / 4 % 4) & 1 == 0).for_each(|l| dpp.mask &= !(1 << l)),
            "bound_ctrl" => dpp.bound_zero = true,
            "fi" => dpp.fetch_inactive = v != 0,
            _ => return true,
        }
        false
    });
    Some(dpp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Dpp {
        parse(&mut text.split(' ').map(String::from).collect()).unwrap()
    }

    #[test]
    fn controls() {
        assert_eq!(of("quad_perm:[1,0,3,2] row_mask:0xf bank_mask:0xf").from[..4], [1, 0, 3, 2]);
        assert_eq!(of("row_half_mirror").from[16..24], [23, 22, 21, 20, 19, 18, 17, 16]);
        assert_eq!(of("row_mirror").from[16], 31);
        assert_eq!(of("row_share:3").from[20], 19);
        assert_eq!(of("row_xmask:1").from[17], 16);
        let d = of("row_shr:1 row_mask:0x1 bank_mask:0x3 bound_ctrl:1");
        assert_eq!((d.from[0], d.from[1], d.from[16]), (255, 0, 255));
        assert_eq!((d.mask, d.bound_zero), (0xff, true));
        assert_eq!(of("row_shl:2").from[13..16], [15, 255, 255]);
        assert_eq!(of("row_ror:4").from[0], 12);
    }
}
