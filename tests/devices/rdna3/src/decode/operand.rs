//! Operands: registers, constants and their modifiers.

use crate::inst::{ABS, EXEC, Kind, M0, NEG, NONE, NULL, Opd, VCC};

/// How an instruction reads a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// f16 bits in the low half.
    F16,
    /// 32 bits.
    B32,
    /// A double; a hexadecimal literal is its high half.
    F64,
    /// 64-bit integer; a hexadecimal literal is zero-extended.
    B64,
    /// 64-bit integer; a hexadecimal literal is sign-extended.
    I64,
}

/// Where flat addresses begin to mean local memory; no allocation lies there.
const SHARED_BASE: u64 = 1 << 48;
/// Where flat addresses begin to mean private memory.
const PRIVATE_BASE: u64 = 1 << 49;

fn registers(kind: Kind, text: &str) -> Option<Opd> {
    let (reg, n) = match text.strip_prefix('[') {
        None => (text.parse::<u16>().ok()?, 1),
        Some(range) => {
            let (a, b) = range.strip_suffix(']')?.split_once(':')?;
            let (a, b) = (a.parse::<u16>().ok()?, b.parse::<u16>().ok()?);
            (a, b.checked_sub(a)? + 1)
        }
    };
    let limit = if kind == Kind::V { 256 } else { 106 };
    (reg + n <= limit).then_some(Opd { kind, reg, n, ..NONE })
}

fn scalar(reg: u16, n: u16) -> Option<Opd> {
    Some(Opd { kind: Kind::S, reg, n, ..NONE })
}

fn literal(text: &str, width: Width) -> Option<Opd> {
    let lit = |lit: u64| Some(Opd { kind: Kind::Lit, lit, n: 1, ..NONE });
    let (minus, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if let Some(hex) = digits.strip_prefix("0x") {
        let v = u64::from_str_radix(hex, 16).ok()?;
        return match (minus, width) {
            (true, _) => lit((v as i64).wrapping_neg() as u64),
            (_, Width::F64) if v <= u64::from(u32::MAX) => lit(v << 32),
            (_, Width::I64) => lit(v as u32 as i32 as i64 as u64),
            _ => lit(v),
        };
    }
    if text.contains('.') {
        return match width {
            Width::F16 => lit(u64::from(crate::float::f2h(text.parse::<f32>().ok()?))),
            Width::F64 => lit(text.parse::<f64>().ok()?.to_bits()),
            _ => lit(u64::from(text.parse::<f32>().ok()?.to_bits())),
        };
    }
    lit(text.parse::<i64>().ok()? as u64)
}

/// An operand; `None` when the text is none that this device knows.
pub fn parse(text: &str, width: Width) -> Option<Opd> {
    if let Some(inner) = text.strip_prefix("neg(").and_then(|t| t.strip_suffix(')')) {
        return parse(inner, width).map(|o| Opd { mods: o.mods ^ NEG, ..o });
    }
    if let Some(inner) = text.strip_prefix("abs(").and_then(|t| t.strip_suffix(')')) {
        return parse(inner, width).map(|o| Opd { mods: o.mods | ABS, ..o });
    }
    if let Some(inner) = text.strip_prefix('-').filter(|t| !t.starts_with(|c: char| c.is_ascii_digit())) {
        return parse(inner, width).map(|o| Opd { mods: o.mods ^ NEG, ..o });
    }
    if let Some(inner) = text.strip_prefix('|').and_then(|t| t.strip_suffix('|')) {
        return parse(inner, width).map(|o| Opd { mods: o.mods | ABS, ..o });
    }
    match text {
        "off" => Some(NONE),
        "vcc_lo" => scalar(VCC, 1),
        "vcc_hi" => scalar(VCC + 1, 1),
        "vcc" => scalar(VCC, 2),
        "exec_lo" => scalar(EXEC, 1),
        "exec_hi" => scalar(EXEC + 1, 1),
        "exec" => scalar(EXEC, 2),
        "null" => scalar(NULL, 1),
        "m0" => scalar(M0, 1),
        "scc" | "src_scc" => Some(Opd { kind: Kind::Scc, ..NONE }),
        "src_shared_base" => Some(Opd { kind: Kind::Lit, lit: SHARED_BASE, ..NONE }),
        "src_private_base" => Some(Opd { kind: Kind::Lit, lit: PRIVATE_BASE, ..NONE }),
        _ => {
            let digit = |c: char| c.is_ascii_digit() || c == '[';
            if let Some(r) = text.strip_prefix('v').filter(|r| r.starts_with(digit)) {
                return registers(Kind::V, r);
            }
            if let Some(r) = text.strip_prefix('s').filter(|r| r.starts_with(digit)) {
                return registers(Kind::S, r);
            }
            literal(text, width)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_constants_and_modifiers() {
        let o = parse("-|v[4:7]|", Width::B32).unwrap();
        assert_eq!((o.kind, o.reg, o.n, o.mods), (Kind::V, 4, 4, NEG | ABS));
        let lit = |t, w| parse(t, w).unwrap().lit;
        assert_eq!(lit("-1", Width::B64), !0);
        assert_eq!(lit("0xffffffff", Width::B64), 0xffff_ffff);
        assert_eq!(lit("0xffffffff", Width::I64), !0);
        assert_eq!(lit("1.0", Width::F16), 0x3c00);
        assert_eq!(lit("1.0", Width::F64), 1f64.to_bits());
        assert_eq!(lit("0x3ff00000", Width::F64), 1f64.to_bits());
        assert_eq!(lit("0.15915494", Width::B32), 0x3e22_f983);
        assert!(parse("v[250:257]", Width::B32).is_none() && parse("ttmp3", Width::B32).is_none());
    }
}
