//! Tests of the whole module on files made in memory.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::base::storage::Slice;
use crate::gguf::Tensor;
use crate::gguf::meta::{Array, Meta, Value};
use crate::plan::cache::CacheGroup;
use crate::plan::op::{Activation, Op, RopeStyle, Rows};

/// A small file, to be changed before it is opened.
struct File {
    meta: Vec<(String, Value)>,
    tensors: Vec<(String, GgmlType, Vec<u64>)>,
}

const WIDTH: u64 = 32;
const FF: u64 = 48;
const VOCAB: u64 = 40;

impl File {
    /// Two heads of 16, one of keys and values.
    fn new(arch: &str, n_layer: u32) -> Self {
        let mut f = File { meta: Vec::new(), tensors: Vec::new() };
        f.set("general.architecture", Value::Str(arch.to_owned()));
        for (key, v) in [
            ("block_count", n_layer),
            ("context_length", 512),
            ("embedding_length", WIDTH as u32),
            ("feed_forward_length", FF as u32),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
        ] {
            f.set(&format!("{arch}.{key}"), Value::U32(v));
        }
        f.set(&format!("{arch}.attention.layer_norm_rms_epsilon"), Value::F32(1e-5));
        f.add("token_embd.weight", &[WIDTH, VOCAB]);
        f.add("output_norm.weight", &[WIDTH]);
        for i in 0..n_layer {
            let mut layer = |part: &str, dims: &[u64]| f.add(&format!("blk.{i}.{part}.weight"), dims);
            layer("attn_norm", &[WIDTH]);
            layer("attn_q", &[WIDTH, 32]);
            layer("attn_k", &[WIDTH, 16]);
            layer("attn_v", &[WIDTH, 16]);
            layer("attn_output", &[32, WIDTH]);
            layer("ffn_norm", &[WIDTH]);
            layer("ffn_gate", &[WIDTH, FF]);
            layer("ffn_up", &[WIDTH, FF]);
            layer("ffn_down", &[FF, WIDTH]);
            if arch == "qwen3" || arch == "gemma3" {
                layer("attn_q_norm", &[16]);
                layer("attn_k_norm", &[16]);
            }
            if arch == "gemma3" {
                layer("post_attention_norm", &[WIDTH]);
                layer("post_ffw_norm", &[WIDTH]);
            }
        }
        f
    }

    fn set(&mut self, key: &str, value: Value) {
        self.meta.retain(|(k, _)| k != key);
        self.meta.push((key.to_owned(), value));
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.set(key, value);
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.meta.retain(|(k, _)| k != name);
        self.tensors.retain(|(n, _, _)| n != name);
        self
    }

    fn add(&mut self, name: &str, dims: &[u64]) {
        self.tensors.push((name.to_owned(), GgmlType::F32, dims.to_vec()));
    }

    fn plus(mut self, name: &str, dims: &[u64]) -> Self {
        self.add(name, dims);
        self
    }

    /// As a file with ones in every F32 tensor.
    fn open(&self) -> Result<Model, ModelError> {
        let mut meta = Meta::default();
        for (key, value) in &self.meta {
            meta.insert(key.clone(), value.clone());
        }
        let tensor = |(name, ty, dims): &(String, GgmlType, Vec<u64>)| {
            let bytes = ty.bytes_of(dims.iter().product()).expect("whole blocks") as usize;
            let data: Vec<u8> = 1.0f32.to_le_bytes().into_iter().cycle().take(bytes).collect();
            let mut all = [1; 4];
            all[..dims.len()].copy_from_slice(dims);
            let data = Slice::new(Arc::new(data), 0, bytes);
            Tensor { name: name.clone(), ty: *ty, dims: all, n_dims: dims.len(), data }
        };
        Model::from_gguf(&Gguf::new(meta, self.tensors.iter().map(tensor).collect()))
    }

    #[track_caller]
    fn plan(&self) -> Plan {
        let plan = self.open().expect("sound").plan(&PlanOptions { kv_type: KvType::F16 });
        plan.check().expect("sound");
        plan
    }

    #[track_caller]
    fn refused(&self, says: &str) {
        let error = self.open().expect_err("must be refused").to_string();
        assert!(error.contains(says), "{error}");
    }
}

fn llama() -> File {
    File::new("llama", 2)
}

#[test]
fn every_row_gives_a_sound_plan() {
    for arch in &archs::ARCHS {
        let model = File::new(arch.name, 3).open().expect("sound");
        assert_eq!(model.spec.name, arch.name);
        let per_layer = 32 * 32 * 2 + 32 * 16 * 2 + 32 * 48 * 3 + 32 * 2;
        let more = u64::from(arch.qk_norm) * 32 + u64::from(arch.post_norms) * 64;
        assert_eq!(model.n_params, 40 * 32 + 32 + 3 * (per_layer + more));
        let plan = model.plan(&PlanOptions { kv_type: KvType::F32 });
        plan.check().expect("sound");
        assert!(model.describe().contains(&("layers", "3".to_owned())));
    }
}

#[test]
fn a_llama_plan_is_the_published_block() {
    let text = File::new("llama", 1).plan().to_string();
    let expected = "\
cache 0: full, 1 layers x 1 heads x (16 + 16) F16, 64 bytes a token
rope 0: 16 pairs, base 10000
   0 embed     token_embd.weight[40 x 32 F32] -> x
   1 norm      Rms of 32, eps 0.00001: x * blk.0.attn_norm.weight -> normed
   2 linear    normed * blk.0.attn_q.weight[32 x 32 F32] -> q, blk.0.attn_k.weight[16 x 32 F32] -> k, \
blk.0.attn_v.weight[16 x 32 F32] -> v
   3 rope      q in heads of 16, rope 0
   4 rope      k in heads of 16, rope 0
   5 store     k, v -> cache 0 layer 0
   6 attention 2 heads of q on cache 0 layer 0, scale 0.25 -> attended
   7 select    x -> x_out
   8 select    attended -> attended_out
   9 linear    attended_out * blk.0.attn_output.weight[32 x 32 F32] -> y_out
  10 add       x_out + y_out -> x_out
  11 norm      Rms of 32, eps 0.00001: x_out * blk.0.ffn_norm.weight -> normed_out
  12 linear    normed_out * blk.0.ffn_gate.weight[48 x 32 F32] -> gate_out, blk.0.ffn_up.weight[48 x 32 F32] -> up_out
  13 glu       Silu(gate_out) * up_out -> gate_out
  14 linear    gate_out * blk.0.ffn_down.weight[32 x 48 F32] -> y_out
  15 add       x_out + y_out -> x_out
  16 norm      Rms of 32, eps 0.00001: x_out * output_norm.weight -> x_out
  17 linear    x_out * token_embd.weight[40 x 32 F32] -> logits
";
    assert_eq!(text, expected);
}

#[test]
fn only_the_last_layer_works_on_outputs() {
    let plan = File::new("llama", 3).plan();
    let selects = plan.ops.iter().filter(|op| matches!(op, Op::Select { .. })).count();
    assert_eq!(selects, 2);
    let attention = plan.ops.iter().rposition(|op| matches!(op, Op::Attention(_))).expect("there is one");
    assert!(plan.ops[..attention].iter().flat_map(Op::writes).all(|b| plan.buffer(b).rows == Rows::Tokens));
    assert!(plan.ops[attention + 1..].iter().flat_map(Op::writes).all(|b| plan.buffer(b).rows == Rows::Outputs));
}

#[test]
fn gemma_has_two_kinds_of_layers() {
    let file = File::new("gemma3", 8)
        .with("gemma3.attention.sliding_window", Value::U32(8))
        .with("gemma3.rope.freq_base", Value::F32(1e6))
        .with("gemma3.rope.scaling.factor", Value::F32(8.0))
        .with("gemma3.final_logit_softcapping", Value::F32(30.0));
    let plan = file.plan();
    let sizes: Vec<_> = plan.caches.iter().map(|c| (c.name.as_str(), c.n_layer, c.window)).collect();
    assert_eq!(sizes, [("full", 1, None), ("window 8", 7, Some(8))]);
    let windows: Vec<_> =
        plan.ops.iter().filter_map(|op| if let Op::Attention(a) = op { Some(a.window) } else { None }).collect();
    let (local, global) = (Some(8), None);
    assert_eq!(windows, [local, local, local, local, local, global, local, local]);
    let ropes: Vec<_> = plan.ropes.iter().map(|r| (r.freq_base, r.freq_scale, r.style)).collect();
    assert_eq!(ropes, [(10000.0, 1.0, RopeStyle::Halves), (1e6, 0.125, RopeStyle::Halves)]);
    let Op::Embed { scale, .. } = plan.ops[0] else { panic!("starts with embeddings") };
    assert_eq!(scale, 32f32.sqrt());
    assert!(matches!(plan.ops.last(), Some(Op::Softcap { cap: 30.0, .. })));
    assert!(plan.ops.iter().any(|op| matches!(op, Op::Glu { act: Activation::GeluTanh, .. })));
    // Norms: two around each block, queries and keys, one at the end.
    assert_eq!(plan.ops.iter().filter(|op| matches!(op, Op::Norm { .. })).count(), 8 * 6 + 1);

    let file = file.with("gemma3.attention.sliding_window_pattern", Value::U32(2));
    let layers = |p: &Plan| p.caches.iter().map(|c: &CacheGroup| c.n_layer).collect::<Vec<_>>();
    assert_eq!(layers(&file.plan()), [4, 4]);
    let array = Array::Bool((0..8).map(|i| i > 0).collect());
    let file = file.with("gemma3.attention.sliding_window_pattern", Value::Array(array));
    assert_eq!(layers(&file.plan()), [1, 7]);
    let file = file.with("gemma3.attention.sliding_window", Value::U32(0));
    assert_eq!(layers(&file.plan()), [8]);
}

#[test]
fn gemma_27b_scales_scores_by_width() {
    let scale = |n_layer| {
        let mut f = File::new("gemma3", n_layer)
            .with("gemma3.attention.key_length", Value::U32(8))
            .with("gemma3.attention.value_length", Value::U32(8));
        for (name, _, dims) in &mut f.tensors {
            match name.split('.').nth(2) {
                Some("attn_q" | "attn_k" | "attn_v") => dims[1] /= 2,
                Some("attn_output" | "attn_q_norm" | "attn_k_norm") => dims[0] /= 2,
                _ => {}
            }
        }
        f.open().expect("sound").hparams.score_scale
    };
    assert_eq!(scale(61), 1.0 / 8f32.sqrt());
    assert_eq!(scale(62), 1.0 / 16f32.sqrt());
}

#[test]
fn rope_scaling_as_the_keys_say() {
    let rope = |f: File| f.open().expect("sound").hparams.rope;
    assert_eq!(rope(llama().with("llama.rope.scale_linear", Value::F32(4.0))).freq_scale, 0.25);
    let both =
        llama().with("llama.rope.scale_linear", Value::F32(4.0)).with("llama.rope.scaling.factor", Value::F32(2.0));
    assert_eq!(rope(both).freq_scale, 0.5);
    let scaled = || llama().with("llama.rope.scaling.factor", Value::F32(4.0));
    let kind = |k: &str| scaled().with("llama.rope.scaling.type", Value::Str(k.to_owned()));
    assert_eq!(rope(kind("none")).freq_scale, 1.0);
    let yarn = rope(kind("yarn").with("llama.rope.scaling.original_context_length", Value::U32(64)));
    assert_eq!(yarn.freq_scale, 0.25);
    assert_eq!(
        yarn.yarn.map(|y| (y.original_context, y.ext_factor, y.beta_fast, y.beta_slow)),
        Some((64, 1.0, 32.0, 1.0))
    );
    assert_eq!(yarn.attn_factor, 1.0);
    let shorter = llama().with("llama.rope.scaling.factor", Value::F32(0.5));
    let shorter = rope(shorter.with("llama.rope.scaling.type", Value::Str("yarn".to_owned())));
    assert_eq!(shorter.attn_factor, 1.0 / (1.0 + 0.1 * 0.5f32.ln()));
    kind("longrope").refused("`llama.rope.scaling.type` is longrope");
    llama().with("llama.rope.dimension_count", Value::U32(15)).refused("`llama.rope.dimension_count` is 15");
    llama().with("llama.rope.dimension_count", Value::U32(0)).refused("`llama.rope.dimension_count` is 0");
    llama().with("llama.rope.freq_base", Value::F32(0.0)).refused("`llama.rope.freq_base` is 0");
}

#[test]
fn tensors_may_be_fused_tied_and_biased() {
    let model = llama().plus("output.weight", &[WIDTH, VOCAB]).open().expect("sound");
    assert!(!model.tied());
    assert!(llama().open().expect("sound").tied());

    let mut fused = llama();
    for i in 0..2 {
        for part in ["attn_q", "attn_k", "attn_v"] {
            fused = fused.without(&format!("blk.{i}.{part}.weight"));
        }
        fused.add(&format!("blk.{i}.attn_qkv.weight"), &[WIDTH, 64]);
    }
    fused.add("blk.1.attn_qkv.bias", &[64]);
    fused.add("blk.0.attn_q.bias", &[32]);
    let text = fused.plan().to_string();
    assert!(text.contains("normed * blk.0.attn_qkv.weight[0..32][32 x 32 F32] + blk.0.attn_q.bias -> q"), "{text}");
    assert!(text.contains("blk.1.attn_qkv.weight[48..64][16 x 32 F32] + blk.1.attn_qkv.bias[48..64] -> v"), "{text}");

    let text = llama().plus("blk.0.ffn_down.bias", &[WIDTH]).plan().to_string();
    assert!(text.contains("blk.0.ffn_down.weight[32 x 48 F32] + blk.0.ffn_down.bias -> y"), "{text}");
    let text = llama().plus("rope_freqs.weight", &[8]).plan().to_string();
    assert!(text.contains("rope 0: 16 pairs, base 10000, rope_freqs.weight"), "{text}");
}

#[test]
fn every_tensor_is_claimed_or_named() {
    llama().without("blk.1.ffn_up.weight").refused("tensor `blk.1.ffn_up.weight` is missing");
    llama().without("token_embd.weight").refused("tensor `token_embd.weight` is missing");
    File::new("qwen3", 2).without("blk.0.attn_q_norm.weight").refused("tensor `blk.0.attn_q_norm.weight` is missing");
    llama()
        .plus("blk.0.attn_sinks", &[2])
        .refused("1 tensors of the file have no place in a model of architecture `llama`: blk.0.attn_sinks");
    llama().plus("output.bias", &[VOCAB]).refused("output.bias");
    File::new("qwen2", 2).plus("rope_freqs.weight", &[8]).refused("rope_freqs.weight");
    llama().plus("blk.2.attn_norm.weight", &[WIDTH]).refused("blk.2.attn_norm.weight");
    let reranker = File::new("qwen3", 2).plus("cls.output.weight", &[WIDTH, 2]).open().expect("sound");
    assert_eq!(reranker.ignored, ["cls.output.weight"]);

    let mut f = llama();
    f.tensors[3].2 = vec![WIDTH, 24];
    f.refused("tensor `blk.0.attn_q.weight` is 32 x 24, expected 32 x 32");
    let mut f = llama();
    f.tensors[3].1 = GgmlType::I32;
    f.refused("tensor `blk.0.attn_q.weight` is of type I32");
    let mut f = llama();
    f.tensors[1].1 = GgmlType::F16;
    f.refused("tensor `output_norm.weight` is of type F16");
}

#[test]
fn each_bad_key_is_named() {
    for key in ["block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count"] {
        let key = format!("llama.{key}");
        llama().without(&key).refused(&format!("metadata key `{key}` is missing"));
        llama().with(&key, Value::U32(0)).refused(&format!("metadata key `{key}` is 0"));
        llama().with(&key, Value::U32(u32::MAX)).refused(&format!("metadata key `{key}` is 4294967295"));
        llama().with(&key, Value::I32(-1)).refused(&format!("metadata key `{key}` is -1"));
        llama().with(&key, Value::Str("7".into())).refused(&format!("metadata key `{key}` is string"));
    }
    let heads = |n, kv| {
        llama().with("llama.attention.head_count", Value::U32(n)).with("llama.attention.head_count_kv", Value::U32(kv))
    };
    heads(4, 3).refused("`llama.attention.head_count_kv` is 3: does not divide the 4 heads");
    heads(3, 1).refused("`llama.attention.head_count` is 3: does not divide the width 32");
    heads(2, 0).refused("`llama.attention.head_count_kv` is 0");
    for eps in [0.0, -1.0, 2.0, f32::NAN, f32::INFINITY] {
        let key = "llama.attention.layer_norm_rms_epsilon";
        llama().with(key, Value::F32(eps)).refused(key);
    }
    llama().with("llama.expert_count", Value::U32(8)).refused("`llama.expert_count` is 8: mixtures of experts");
    llama().with("llama.attention.causal", Value::Bool(false)).refused("`llama.attention.causal` is false");
    let tokens = |n: usize| {
        let mut strings = crate::gguf::meta::Strings::default();
        (0..n).for_each(|i| strings.push(i.to_string().as_bytes()));
        llama().with("tokenizer.ggml.tokens", Value::Array(Array::Str(strings)))
    };
    tokens(VOCAB as usize).open().expect("as many tokens as rows");
    tokens(39).refused("`tokenizer.ggml.tokens` is 39 tokens: `token_embd.weight` has 40 rows");
}

#[test]
fn per_layer_values_must_agree() {
    let with = |array| llama().with("llama.feed_forward_length", Value::Array(array));
    with(Array::I32(vec![48, 48])).open().expect("the same for both layers");
    with(Array::I32(vec![48, 32])).refused("`llama.feed_forward_length` is 48 and 32: layers that differ");
    with(Array::U32(vec![48])).refused("`llama.feed_forward_length` is an array of 1: the model has 2 layers");
    with(Array::I64(vec![48, -1])).refused("`llama.feed_forward_length` is an array");
    with(Array::F32(vec![48.0, 48.0])).refused("`llama.feed_forward_length` is an array");
    with(Array::U32(vec![0, 0])).refused("`llama.feed_forward_length` is 0");
}

fn strange() -> impl Strategy<Value = Value> {
    let number = prop_oneof![Just(0), Just(1), Just(2), Just(16), Just(u32::MAX), any::<u32>()];
    let float = prop_oneof![Just(0.0f32), Just(-1.0), Just(f32::NAN), Just(f32::MAX), any::<f32>()];
    prop_oneof![
        number.clone().prop_map(Value::U32),
        any::<i64>().prop_map(Value::I64),
        float.prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        Just(Value::Str("yarn".to_owned())),
        proptest::collection::vec(number, 0..4).prop_map(|v| Value::Array(Array::U32(v))),
    ]
}

proptest! {
    /// Whatever the keys say, a file is refused or gives a sound plan: nothing panics.
    #[test]
    fn strange_values_never_panic(
        arch in 0usize..archs::ARCHS.len(),
        changes in proptest::collection::vec((0usize..22, strange()), 1..4),
    ) {
        const KEYS: [&str; 22] = [
            "block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
            "attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.sliding_window",
            "attention.sliding_window_pattern", "attention.layer_norm_rms_epsilon", "rope.dimension_count",
            "rope.freq_base", "rope.freq_base_swa", "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear",
            "rope.scaling.original_context_length", "rope.scaling.attn_factor", "final_logit_softcapping",
            "attention.key_length_swa", "expert_count",
        ];
        let arch = archs::ARCHS[arch].name;
        let mut file = File::new(arch, 2);
        for (key, value) in changes {
            file.set(&format!("{arch}.{}", KEYS[key]), value);
        }
        if let Ok(model) = file.open() {
            prop_assert_eq!(model.plan(&PlanOptions { kv_type: KvType::F16 }).check(), Ok(()));
        }
    }
}
