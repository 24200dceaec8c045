//! Disassembly to instructions.

pub mod dpp;
pub mod operand;
pub mod text;

use crate::exec::modifiers::{Result as Output, dpp as dpp_wrapper, keep_dual, output};
use crate::exec::{exec_nothing, lookup};
use crate::inst::{ABS, HIGH, Inst, Kind, NEG, NONE, Opd, TEMP_DPP, TEMP_DUAL};
use crate::wait::mark_v;
use operand::Width;
use std::collections::{BTreeMap, HashMap};
use text::Line;

/// Code, ready to run.
pub struct Code {
    /// Instructions in the order of their addresses.
    pub code: Vec<Inst>,
    /// Mnemonics.
    pub names: Vec<String>,
    /// From address to index.
    pub index: HashMap<u64, u32>,
    /// Memory instructions.
    pub slots: usize,
    /// log2 of the narrowest access to local memory.
    pub grain: u32,
}

/// Mnemonics whose operands are not read.
fn opaque(name: &str) -> bool {
    matches!(
        name,
        "s_nop"
            | "s_delay_alu"
            | "s_waitcnt"
            | "s_clause"
            | "s_sendmsg"
            | "s_code_end"
            | "s_setreg_b32"
            | "s_setreg_imm32_b32"
            | "s_set_inst_prefetch_distance"
            | "s_waitcnt_depctr"
            | "s_sleep"
            | "s_round_mode"
            | "s_denorm_mode"
            | "s_setprio"
            | "s_endpgm"
            | "s_barrier"
    ) || name.starts_with("s_waitcnt_")
}

/// Mnemonic without encoding suffix; a half of a dual instruction under its single name.
fn plain(name: &str) -> String {
    let mut base = name;
    for suffix in ["_dpp", "_e32", "_e64"] {
        base = base.strip_suffix(suffix).unwrap_or(base);
    }
    base.strip_prefix("v_dual_").map_or(base.to_string(), |rest| format!("v_{rest}"))
}

fn is_packed(name: &str) -> bool {
    ["v_pk_", "v_dot", "v_fma_mix", "v_wmma_"].iter().any(|p| name.starts_with(p))
}

/// How source `k` of an instruction reads constants.
fn width(name: &str, k: usize) -> Width {
    let ty = name
        .rsplit('_')
        .find(|t| matches!(*t, "f16" | "bf16" | "f32" | "f64" | "b64" | "u64" | "i64" | "i32" | "u32" | "b32"));
    match ty {
        _ if name.starts_with("v_wmma_") || name.starts_with("v_fma_mix") => Width::B32,
        Some("f16") if name.starts_with("v_dot2") && k == 3 => Width::B32,
        Some("f16") => Width::F16,
        Some("f64") => Width::F64,
        Some("i64") => Width::I64,
        Some("b64" | "u64") => Width::B64,
        // The addend is 64 bits wide.
        _ if name == "v_mad_i64_i32" && k == 4 => Width::I64,
        _ => Width::B32,
    }
}

fn bits(list: &str) -> (u8, usize) {
    let inner = list.trim_start_matches('[').trim_end_matches(']');
    let set: Vec<bool> = inner.split(',').map(|b| b.trim() == "1").collect();
    (set.iter().enumerate().map(|(k, b)| u8::from(*b) << k).sum(), set.len())
}

fn number(text: &str) -> Option<i32> {
    let (minus, digits) = text.strip_prefix('-').map_or((false, text), |d| (true, d));
    let v = match digits.strip_prefix("0x") {
        Some(h) => i32::from_str_radix(h, 16).ok()?,
        None => digits.parse().ok()?,
    };
    Some(if minus { -v } else { v })
}

/// What a result is, for clamp and output multiplier; `None` where they are not supported.
fn shaped(name: &str) -> Option<Output> {
    let ty = name
        .split('_')
        .find(|t| matches!(*t, "f16" | "f32" | "f64" | "i32" | "u32" | "i16" | "u16" | "b32" | "i64" | "u64"));
    match ty {
        Some("f32") => Some(Output::F32),
        Some("f16") if name.starts_with("v_pk_") => Some(Output::PackedF16),
        Some("f16") => Some(Output::F16),
        _ => None,
    }
}

impl Code {
    /// Decodes a disassembly; the error lists everything that is not understood.
    pub fn new(disassembly: &str) -> Result<Code, String> {
        let mut c = Code { code: Vec::new(), names: Vec::new(), index: HashMap::new(), slots: 1, grain: 2 };
        let (mut unknown, mut interned) = (BTreeMap::<String, Vec<u64>>::new(), HashMap::new());
        for (x, y) in text::parse(disassembly) {
            let at = c.code.len() as u32;
            c.index.insert(x.pc, at);
            let mut decode = |line: Line| match c.one(&line, &mut interned) {
                Ok(i) => Some(i),
                Err(what) => {
                    unknown.entry(what).or_default().push(line.pc);
                    None
                }
            };
            match y {
                None => {
                    let i = decode(x);
                    c.code.extend(i);
                }
                Some(y) => {
                    if let (Some(x), Some(y)) = (decode(x), decode(y)) {
                        c.dual(x, y);
                    }
                }
            }
        }
        for k in 0..c.code.len() {
            let i = &c.code[k];
            let name = &c.names[i.name as usize];
            if name.contains("branch") || name == "s_call_b64" {
                let to = (i.pc as i64 + 4 + 4 * i64::from(i.imm as i16)) as u64;
                match c.index.get(&to) {
                    Some(&t) => c.code[k].target = t,
                    None => unknown.entry(format!("{name} to {to:#x}")).or_default().push(i.pc),
                }
            }
        }
        if unknown.is_empty() {
            return Ok(c);
        }
        let list: Vec<String> =
            unknown.iter().map(|(what, at)| format!("{what} (pc {:#x}, {} in all)", at[0], at.len())).collect();
        Err(format!("{} not understood: {}", list.len(), list.join("; ")))
    }

    /// A dual instruction as two that follow each other. Both read before either writes: where the first would
    /// overwrite what the second reads, they change places; where each does so, the value is kept in a row apart.
    fn dual(&mut self, mut x: Inst, mut y: Inst) {
        let writes = |i: &Inst| i.o[0].reg;
        let reads = |i: &Inst, r: u16| i.o[1..].iter().any(|o| o.kind == Kind::V && o.reg == r);
        if reads(&y, writes(&x)) {
            if !reads(&x, writes(&y)) {
                std::mem::swap(&mut x, &mut y);
            } else {
                let r = writes(&x);
                let mut keep = x.clone();
                keep.o = [Opd { reg: TEMP_DUAL, ..x.o[0] }, x.o[0], NONE, NONE, NONE];
                (keep.run, keep.hidden) = (keep_dual(), true);
                for o in y.o[1..].iter_mut().filter(|o| o.kind == Kind::V && o.reg == r) {
                    o.reg = TEMP_DUAL;
                }
                self.code.push(keep);
            }
        }
        y.hidden = true;
        self.code.push(x);
        self.code.push(y);
    }

    fn one(&mut self, line: &Line, interned: &mut HashMap<String, u32>) -> Result<Inst, String> {
        let base = plain(&line.name);
        let run = lookup(&base).ok_or_else(|| line.name.clone())?;
        let names = &mut self.names;
        let name = *interned.entry(line.name.clone()).or_insert_with(|| {
            names.push(line.name.clone());
            names.len() as u32 - 1
        });
        let mut i = Inst {
            run,
            after_dpp: exec_nothing(),
            plain: run,
            o: [NONE; 5],
            n: 0,
            imm: (line.word & 0xffff) as i32,
            imm1: 0,
            target: u32::MAX,
            op_sel: 0,
            op_sel_hi: if base.starts_with("v_fma_mix") { 0 } else { 7 },
            neg_lo: 0,
            neg_hi: 0,
            clamp: false,
            omod: 0,
            dst_high: false,
            glc: false,
            hidden: false,
            slot: 0,
            pc: line.pc,
            name,
            uses_v: [0; 4],
            uses_s: 0,
            dpp: None,
        };
        if opaque(&base) {
            return Ok(i);
        }
        if line.operands.len() > 5 {
            return Err(format!("{} with {} operands", line.name, line.operands.len()));
        }
        for (k, text) in line.operands.iter().enumerate() {
            if base == "s_getreg_b32" && k == 1 {
                break;
            }
            i.o[k] =
                operand::parse(text, width(&base, k)).ok_or_else(|| format!("{} with operand {text}", line.name))?;
            i.n = k as u8 + 1;
        }
        let mut modifiers = line.modifiers.clone();
        if let Some(mut d) = dpp::parse(&mut modifiers) {
            let k = if base.starts_with("v_cmpx") { 0 } else { 1 };
            if i.o[k].kind != Kind::V {
                return Err(format!("{} of no vector register", line.name));
            }
            d.source = i.o[k].reg;
            i.dpp = Some(Box::new(d));
        }
        self.modify(&mut i, &base, line, modifiers)?;
        self.memory(&mut i, &base);
        note_uses(&mut i, &base);
        if i.clamp || i.omod != 0 {
            // A clamped integer instruction saturates: an operation of its own here.
            let saturating = if i.omod == 0 { lookup(&format!("{base}_sat")) } else { None };
            i.run = match (saturating, shaped(&base)) {
                (Some(run), _) => run,
                (None, Some(shape)) => output(shape),
                (None, None) => return Err(format!("{} with clamp or omod", line.name)),
            };
        }
        if i.dpp.is_some() {
            (i.after_dpp, i.run) = (i.run, dpp_wrapper());
            i.o[if base.starts_with("v_cmpx") { 0 } else { 1 }].reg = TEMP_DPP;
        }
        Ok(i)
    }

    fn modify(&mut self, i: &mut Inst, base: &str, line: &Line, modifiers: Vec<String>) -> Result<(), String> {
        let memory =
            base.starts_with("ds_") || ["global_", "flat_", "scratch_", "s_load_"].iter().any(|p| base.starts_with(p));
        if memory && base != "ds_swizzle_b32" {
            i.imm = 0;
        }
        for m in modifiers {
            let (key, value) = m.split_once(':').unwrap_or((&m, ""));
            match key {
                "offset" if base == "ds_swizzle_b32" => {}
                "offset" | "offset0" => i.imm = number(value).ok_or_else(|| format!("{} {m}", line.name))?,
                "offset1" => i.imm1 = number(value).ok_or_else(|| format!("{} {m}", line.name))?,
                "op_sel" => {
                    let (set, len) = bits(value);
                    i.op_sel = set;
                    if !is_packed(base) && !base.starts_with("v_permlane") {
                        let first = if base.starts_with("v_cmpx") { 0 } else { 1 };
                        let sources = usize::from(i.n) - first;
                        for k in (0..sources.min(len)).filter(|k| set >> k & 1 != 0) {
                            i.o[first + k].mods |= HIGH;
                        }
                        i.dst_high = len > sources && set >> sources & 1 != 0;
                    }
                }
                "op_sel_hi" => i.op_sel_hi = bits(value).0,
                "neg_lo" => i.neg_lo = bits(value).0,
                "neg_hi" => i.neg_hi = bits(value).0,
                "clamp" => i.clamp = true,
                "mul" => i.omod = if value == "2" { 1 } else { 2 },
                "div" => i.omod = 3,
                "glc" => i.glc = true,
                "slc" | "dlc" => {}
                _ => return Err(format!("{} {m}", line.name)),
            }
        }
        if base.starts_with("v_fma_mix") {
            for k in 1..4 {
                i.neg_lo |= u8::from(i.o[k].mods & NEG != 0) << (k - 1);
                i.neg_hi |= u8::from(i.o[k].mods & ABS != 0) << (k - 1);
                i.o[k].mods = 0;
            }
            i.dst_high = base == "v_fma_mixhi_f16";
        }
        let float_matrix = base.starts_with("v_wmma_") && !base.contains("_iu");
        if float_matrix && (i.neg_lo | i.neg_hi) != 0 {
            return Err(format!("{} with negated operands", line.name));
        }
        Ok(())
    }

    /// Numbers memory instructions and notes how narrow accesses to local memory are.
    fn memory(&mut self, i: &mut Inst, base: &str) {
        if ["global_", "flat_", "s_load_"].iter().any(|p| base.starts_with(p)) {
            i.slot = self.slots as u32;
            self.slots += 1;
        }
        if base.starts_with("ds_load_") || base.starts_with("ds_store_") {
            if base.contains("8") && !base.contains("128") {
                self.grain = 0;
            } else if base.contains("16") && self.grain > 1 {
                self.grain = 1;
            }
        }
    }
}

/// Marks the registers that no load in flight may target. A load's own destination is exempt: loads of one kind
/// return in order.
fn note_uses(i: &mut Inst, base: &str) {
    let ordered = ["global_load_", "flat_load_", "scratch_load_", "ds_load_"].iter().any(|p| base.starts_with(p));
    let skip = usize::from(ordered && !base.contains("d16"));
    for o in &i.o[skip..usize::from(i.n)] {
        match o.kind {
            Kind::V => mark_v(&mut i.uses_v, o.reg, o.n),
            Kind::S => (0..o.n).for_each(|k| i.uses_s |= 1 << ((o.reg + k) & 127)),
            _ => {}
        }
    }
    // EXEC and the null register are no targets of loads.
    i.uses_s &= !(1 << crate::inst::NULL);
}
