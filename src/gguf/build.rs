//! Writes GGUF files for tests, good ones and, field by field, bad ones.

use crate::quant::GgmlType;

/// A GGUF file in the making. Counts and offsets follow what was added unless overridden.
#[derive(Clone, Default)]
pub(crate) struct Build {
    pub(crate) version: Option<u32>,
    pub(crate) n_tensors: Option<u64>,
    pub(crate) n_keys: Option<u64>,
    pub(crate) alignment: Option<u64>,
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) infos: Vec<Vec<u8>>,
    pub(crate) data: Vec<u8>,
}

pub(crate) fn string(s: &[u8]) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes()[..], s].concat()
}

impl Build {
    /// A small model: keys of several types, two tensors.
    pub(crate) fn small() -> Self {
        let tokens = ["<s>", "a", "b c", "\u{20ac}"];
        Self::default()
            .str("general.architecture", "llama")
            .value("llama.block_count", 4, &2u32.to_le_bytes())
            .value("llama.epsilon", 6, &1e-5f32.to_le_bytes())
            .value("tokenizer.ggml.add_bos_token", 7, &[1])
            .array("tokenizer.ggml.tokens", 8, 4, &tokens.map(|t| string(t.as_bytes())).concat())
            .array("tokenizer.ggml.token_type", 5, 3, &[1i32, -2, 3].map(i32::to_le_bytes).concat())
            .tensor("token_embd.weight", GgmlType::F32, &[4, 3], &[1; 48])
            .tensor("blk.0.attn_q.weight", GgmlType::Q8_0, &[32, 2], &[2; 68])
    }

    /// A key with the raw bytes of its value.
    pub(crate) fn value(mut self, key: &str, ty: u32, bytes: &[u8]) -> Self {
        self.keys.push([&string(key.as_bytes())[..], &ty.to_le_bytes(), bytes].concat());
        self
    }

    pub(crate) fn str(self, key: &str, value: &str) -> Self {
        self.value(key, 8, &string(value.as_bytes()))
    }

    pub(crate) fn array(self, key: &str, ty: u32, n: u64, bytes: &[u8]) -> Self {
        self.value(key, 9, &[&ty.to_le_bytes()[..], &n.to_le_bytes(), bytes].concat())
    }

    /// A tensor with its data, at the next aligned offset.
    pub(crate) fn tensor(mut self, name: &str, ty: GgmlType, dims: &[u64], data: &[u8]) -> Self {
        self.pad();
        let offset = self.data.len() as u64;
        self.data.extend_from_slice(data);
        self.info(name.as_bytes(), dims.len() as u32, dims, ty as u32, offset)
    }

    /// A tensor's description alone.
    pub(crate) fn info(mut self, name: &[u8], n_dims: u32, dims: &[u64], ty: u32, offset: u64) -> Self {
        let dims: Vec<u8> = dims.iter().flat_map(|d| d.to_le_bytes()).collect();
        let tail = [ty.to_le_bytes().to_vec(), offset.to_le_bytes().to_vec()].concat();
        self.infos.push([&string(name)[..], &n_dims.to_le_bytes(), &dims, &tail].concat());
        self
    }

    fn pad(&mut self) {
        let a = self.alignment.unwrap_or(32) as usize;
        self.data.resize(self.data.len().next_multiple_of(a), 0);
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.unwrap_or(3).to_le_bytes());
        out.extend(self.n_tensors.unwrap_or(self.infos.len() as u64).to_le_bytes());
        out.extend(self.n_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        out.extend(self.keys.concat());
        out.extend(self.infos.concat());
        if !self.data.is_empty() {
            out.resize(out.len().next_multiple_of(self.alignment.unwrap_or(32) as usize), 0);
        }
        out.extend(&self.data);
        out
    }
}
