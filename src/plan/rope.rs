//! What a rotation's numbers mean: the angle of each pair a position, the same for all backends.

use std::f64::consts::TAU;

use super::op::Rope;

impl Rope {
    /// Angle of each pair at position 1; `factors` are the values of [`Rope::factors`]. In f64: at
    /// position 100,000 an f32 would be off by more than a hundredth of a turn's precision.
    pub fn angles(&self, factors: Option<&[f32]>) -> Vec<f64> {
        let scale = f64::from(self.freq_scale);
        let mut ramp = (0.0, 0.0);
        if let Some(y) = self.yarn {
            // ggml's rope_yarn_corr_dims: dimensions that turn beta_fast and beta_slow times
            // over the original context.
            let dim = |turns: f32| {
                let n = f64::from(y.original_context) / (f64::from(turns) * TAU);
                self.n_rot as f64 * n.ln() / (2.0 * f64::from(self.freq_base).ln())
            };
            ramp = (dim(y.beta_fast).floor().max(0.0), dim(y.beta_slow).ceil().min(self.n_rot as f64 - 1.0));
        }
        let angle = |i: usize| {
            let exponent = -2.0 * i as f64 / self.n_rot as f64;
            let plain = f64::from(self.freq_base).powf(exponent) / factors.map_or(1.0, |f| f64::from(f[i]));
            let scaled = plain * scale;
            let mix = self.yarn.map_or(0.0, |y| {
                let at = (i as f64 - ramp.0) / (ramp.1 - ramp.0).max(0.001);
                (1.0 - at.clamp(0.0, 1.0)) * f64::from(y.ext_factor)
            });
            scaled * (1.0 - mix) + plain * mix
        };
        (0..self.n_rot / 2).map(angle).collect()
    }

    /// Factor of cosine and sine.
    pub fn magnitude(&self) -> f64 {
        let yarn = self.yarn.is_some_and(|y| y.ext_factor != 0.0);
        let stretch = if yarn { 1.0 + 0.1 * (1.0 / f64::from(self.freq_scale)).ln() } else { 1.0 };
        f64::from(self.attn_factor) * stretch
    }
}
