//! One line of the disassembly: mnemonic, operands, modifiers, encoding.

/// A line taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Mnemonic with its encoding suffix.
    pub name: String,
    /// Operands, in order.
    pub operands: Vec<String>,
    /// What follows the operands: `offset:16`, `glc`, `quad_perm:[1,0,3,2]`.
    pub modifiers: Vec<String>,
    /// Address.
    pub pc: u64,
    /// First word of the encoding.
    pub word: u32,
}

/// Splits at `at` (or blanks, for ' ') outside of brackets, bars and quotes.
fn split(text: &str, at: char) -> Vec<String> {
    let (mut out, mut depth, mut quoted, mut part) = (Vec::new(), 0, false, String::new());
    for c in text.chars() {
        match c {
            '[' | '(' => depth += 1,
            ']' | ')' => depth -= 1,
            '"' => quoted = !quoted,
            _ => {}
        }
        if c == at && depth == 0 && !quoted {
            out.push(std::mem::take(&mut part));
        } else {
            part.push(c);
        }
    }
    out.push(part);
    out.iter().map(|p| p.trim().to_string()).filter(|p| !p.is_empty()).collect()
}

/// Takes one instruction's text apart.
pub fn instruction(text: &str, pc: u64, word: u32) -> Line {
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let mut operands = split(rest, ',');
    let mut modifiers = Vec::new();
    if let Some(last) = operands.pop() {
        let mut words = split(&last, ' ');
        // The first word after the last comma is an operand, unless the instruction has none at all.
        modifiers = words.split_off(words.len().min(1));
        operands.append(&mut words);
    }
    Line { name: name.to_string(), operands, modifiers, pc, word }
}

/// The instructions of `llvm-objdump -d`; a dual instruction gives two lines with the same address.
pub fn parse(disassembly: &str) -> Vec<(Line, Option<Line>)> {
    let mut out = Vec::new();
    for line in disassembly.lines() {
        let Some((text, comment)) = line.split_once("//") else { continue };
        let mut fields = comment.split_whitespace();
        let Some(pc) = fields.next().and_then(|f| u64::from_str_radix(f.trim_end_matches(':'), 16).ok()) else {
            continue;
        };
        let word = fields.next().and_then(|f| u32::from_str_radix(f, 16).ok()).unwrap_or(0);
        let text = text.trim();
        if text.is_empty() {
            continue;
        }
        match text.split_once("::") {
            Some((x, y)) => out.push((instruction(x.trim(), pc, word), Some(instruction(y.trim(), pc, word)))),
            None => out.push((instruction(text, pc, word), None)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let text = "\tv_add_f32_dpp v1, v2, v3 quad_perm:[1,0,3,2] row_mask:0xf // 000000001D00: 020406FA FF00B102\n\
                    \tv_dual_mov_b32 v2, 0 :: v_dual_lshlrev_b32 v3, 2, v0 // 000000001D08: CA220080 02020082\n\
                    \ts_cbranch_execz 40 // 000000001D10: BFA50028 <k+0xd4>\n\n0000000000001d00 <k>:\n";
        let lines = parse(text);
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].0.operands, ["v1", "v2", "v3"]);
        assert_eq!(lines[0].0.modifiers, ["quad_perm:[1,0,3,2]", "row_mask:0xf"]);
        assert_eq!((lines[0].0.pc, lines[0].0.word), (0x1d00, 0x0204_06fa));
        assert_eq!(lines[1].1.as_ref().map(|y| y.name.as_str()), Some("v_dual_lshlrev_b32"));
        assert_eq!(lines[2].0.operands, ["40"]);
    }
}
