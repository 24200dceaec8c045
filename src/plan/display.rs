//! A plan as people read it: caches, rotations, then one line an op.

use std::fmt;

use super::op::{BufId, Op, Projection, Rope, RopeStyle, WeightId};
use super::{Plan, Weight};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, c) in self.caches.iter().enumerate() {
            writeln!(
                f,
                "cache {i}: {}, {} layers x {} heads x ({} + {}) {:?}, {} bytes a token",
                c.name,
                c.n_layer,
                c.n_head_kv,
                c.head_dim,
                c.head_dim_v,
                c.kv_type,
                c.token_bytes()
            )?;
        }
        for (i, r) in self.ropes.iter().enumerate() {
            writeln!(f, "rope {i}: {}", Show(self, r))?;
        }
        for (i, op) in self.ops.iter().enumerate() {
            writeln!(f, "{i:4} {:9} {}", op.name(), Show(self, op))?;
        }
        Ok(())
    }
}

/// Something of a plan, to be printed with the names that its ids stand for.
struct Show<'a, T>(&'a Plan, &'a T);

impl fmt::Display for Show<'_, BufId> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.buffer(*self.1).name)
    }
}

impl fmt::Display for Show<'_, WeightId> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Weight { name, ty, n_rows, n_cols, .. } = self.0.weight(*self.1);
        match n_rows {
            1 => f.write_str(name),
            _ => write!(f, "{name}[{n_rows} x {n_cols} {}]", ty.name()),
        }
    }
}

impl fmt::Display for Show<'_, Rope> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = self.1;
        let style = match r.style {
            RopeStyle::Pairs => "pairs",
            RopeStyle::Halves => "halves",
        };
        write!(f, "{} {style}, base {}", r.n_rot, r.freq_base)?;
        if r.freq_scale != 1.0 {
            write!(f, ", scale {}", r.freq_scale)?;
        }
        if let Some(id) = &r.factors {
            write!(f, ", {}", Show(self.0, id))?;
        }
        if let Some(y) = &r.yarn {
            write!(f, ", yarn from {} ({} {} {})", y.original_context, y.ext_factor, y.beta_fast, y.beta_slow)?;
        }
        if r.attn_factor != 1.0 {
            write!(f, ", times {}", r.attn_factor)?;
        }
        Ok(())
    }
}

impl fmt::Display for Show<'_, Projection> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Projection { weight, bias, out } = self.1;
        write!(f, "{}", Show(self.0, weight))?;
        if let Some(bias) = bias {
            write!(f, " + {}", Show(self.0, bias))?;
        }
        write!(f, " -> {}", Show(self.0, out))
    }
}

impl fmt::Display for Show<'_, Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = self.0;
        match self.1 {
            Op::Embed { table, scale, out } => {
                write!(f, "{}", Show(plan, table))?;
                if *scale != 1.0 {
                    write!(f, " * {scale}")?;
                }
                write!(f, " -> {}", Show(plan, out))
            }
            Op::Norm { kind, x, weight, bias, group, eps, out } => {
                write!(f, "{kind:?} of {group}, eps {eps}: {}", Show(plan, x))?;
                if let Some(w) = weight {
                    write!(f, " * {}", Show(plan, w))?;
                }
                if let Some(b) = bias {
                    write!(f, " + {}", Show(plan, b))?;
                }
                write!(f, " -> {}", Show(plan, out))
            }
            Op::Linear { x, projections } => {
                write!(f, "{}", Show(plan, x))?;
                for (i, p) in projections.iter().enumerate() {
                    let between = if i == 0 { " *" } else { "," };
                    write!(f, "{between} {}", Show(plan, p))?;
                }
                Ok(())
            }
            Op::Rope { x, head_dim, rope } => write!(f, "{} in heads of {head_dim}, rope {}", Show(plan, x), rope.0),
            Op::Store { cache, slot, k, v } => {
                write!(f, "{}, {} -> cache {} layer {slot}", Show(plan, k), Show(plan, v), cache.0)
            }
            Op::Attention(a) => {
                write!(f, "{} heads of {} on cache {} layer {}", a.n_head, Show(plan, &a.q), a.cache.0, a.slot)?;
                write!(f, ", scale {}", a.scale)?;
                if let Some(window) = a.window {
                    write!(f, ", window {window}")?;
                }
                if let Some(cap) = a.softcap {
                    write!(f, ", softcap {cap}")?;
                }
                write!(f, " -> {}", Show(plan, &a.out))
            }
            Op::Glu { gate, up, act, out } => {
                write!(f, "{act:?}({}) * {} -> {}", Show(plan, gate), Show(plan, up), Show(plan, out))
            }
            Op::Add { a, b, out } => write!(f, "{} + {} -> {}", Show(plan, a), Show(plan, b), Show(plan, out)),
            Op::Scale { x, factor } => write!(f, "{} * {factor}", Show(plan, x)),
            Op::Softcap { x, cap } => write!(f, "{} within {cap}", Show(plan, x)),
            Op::Select { x, out } => write!(f, "{} -> {}", Show(plan, x), Show(plan, out)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::tiny_plan;

    #[test]
    fn a_plan_reads_as_text() {
        let text = tiny_plan().to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "cache 0: full, 1 layers x 1 heads x (4 + 4) F16, 16 bytes a token");
        assert_eq!(lines[1], "rope 0: 4 pairs, base 10000, factors");
        assert_eq!(lines[2], "   0 embed     embd[10 x 8 F32] -> x");
        assert_eq!(lines[3], "   1 norm      Rms of 8, eps 0.00001: x * norm -> h");
        assert_eq!(lines[4], "   2 linear    h * wq[8 x 8 F32] -> q, wk[4 x 8 F32] -> k, wv[4 x 8 F32] -> v");
        assert_eq!(lines[8], "   6 attention 2 heads of q on cache 0 layer 0, scale 0.5 -> attn");
        assert_eq!(lines[13], "  11 glu       Silu(gate) * up -> gate");
        assert_eq!(lines.len(), 2 + 17);
    }
}
