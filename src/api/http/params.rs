//! What `/v1/chat/completions` and `/v1/completions` have in common: how text is generated.
//!
//! Names are OpenAI's; where OpenAI has none, llama-server's.

use std::collections::BTreeMap;

use super::error::{ApiError, clip};
use super::fields::{Fields, wrong};
use crate::base::limits::{CHOICES_MAX, LOGIT_BIAS_MAX, MODEL_NAME_MAX, STOP_STRING_BYTES_MAX, STOP_STRINGS_MAX};
use crate::engine::message::Sampling;

/// Fields that would change the answer's form or meaning and are not built: refused by name,
/// since ignoring one would be a wrong answer that looks right.
const NOT_BUILT: &[(&str, &str)] = &[
    ("functions", "use 'tools'"),
    ("function_call", "use 'tools' and 'tool_choice'"),
    ("grammar", "constrained generation is not available yet"),
    ("json_schema", "constrained generation is not available yet"),
    ("structured_outputs", "constrained generation is not available yet"),
    ("audio", "this server generates text only"),
    ("web_search_options", "this server does not search"),
];

/// Settings of a generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// Model as the client named it.
    pub model: String,
    /// How tokens are chosen; the seed is set.
    pub sampling: Sampling,
    /// Most tokens to generate.
    pub max_tokens: Option<u32>,
    /// Strings that end the text.
    pub stop: Vec<String>,
    /// Choices for each prompt.
    pub n: u32,
    /// Answer as a stream.
    pub stream: bool,
    /// End the stream with a usage chunk.
    pub include_usage: bool,
    /// Go on after end-of-generation tokens.
    pub ignore_eos: bool,
    /// Reuse and leave cached prefixes.
    pub cache_prompt: bool,
}

impl Params {
    /// Reads the fields. `seed` is used where the client gives none. What was accepted without
    /// effect is added to `ignored`.
    ///
    /// # Errors
    /// 400 naming the field that is wrong, and its bounds.
    pub fn read(fields: &mut Fields<'_>, seed: u64, ignored: &mut Vec<String>) -> Result<Self, ApiError> {
        for (name, why) in NOT_BUILT {
            if fields.raw(name).is_some() {
                return Err(ApiError::unsupported_parameter(name, format!("'{name}' is not supported: {why}.")));
            }
        }
        text_only(fields)?;
        let model = match fields.string("model")? {
            Some(m) if m.is_empty() || m.len() > MODEL_NAME_MAX => {
                let message = format!("Invalid 'model': a name has 1 to {MODEL_NAME_MAX} bytes.");
                return Err(ApiError::invalid(Some("model"), message));
            }
            Some(m) => m,
            None => return Err(ApiError::invalid(Some("model"), "You must provide a 'model'.")),
        };
        let stream = fields.boolean("stream")?.unwrap_or(false);
        let include_usage = stream_options(fields, stream, ignored)?;
        let old = fields.integer("max_tokens", 1..=i64::from(u32::MAX))?;
        let new = fields.integer("max_completion_tokens", 1..=i64::from(u32::MAX))?;
        Ok(Self {
            model,
            max_tokens: new.or(old).and_then(|m| u32::try_from(m).ok()),
            stop: stop(fields)?,
            n: fields.integer("n", 1..=i64::from(CHOICES_MAX))?.and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
            stream,
            include_usage,
            ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
            cache_prompt: fields.boolean("cache_prompt")?.unwrap_or(true),
            sampling: sampling(fields, seed)?,
        })
    }

    /// Checks what depends on the model.
    ///
    /// # Errors
    /// 400 if `logit_bias` names a token beyond `n_vocab`.
    pub fn check(&self, n_vocab: usize) -> Result<(), ApiError> {
        match self.sampling.logit_bias.iter().find(|(id, _)| *id as usize >= n_vocab) {
            None => Ok(()),
            Some((id, _)) => Err(ApiError::invalid(
                Some("logit_bias"),
                format!("Invalid 'logit_bias': token {id} does not exist, the vocabulary has {n_vocab}."),
            )),
        }
    }
}

fn sampling(f: &mut Fields<'_>, seed: u64) -> Result<Sampling, ApiError> {
    let d = Sampling::default();
    // llama-server takes any value below 1 as "all"; vLLM's clients send -1.
    let top_k = f.integer("top_k", -1..=i64::from(i32::MAX))?.map(|k| u32::try_from(k).unwrap_or(0));
    let repeat = match f.number("repeat_penalty", 0.01..=10.0)? {
        Some(p) => Some(p),
        None => f.number("repetition_penalty", 0.01..=10.0)?,
    };
    Ok(Sampling {
        temperature: f.number("temperature", 0.0..=2.0)?.unwrap_or(d.temperature),
        top_k: top_k.unwrap_or(d.top_k),
        top_p: f.number("top_p", 0.0..=1.0)?.unwrap_or(d.top_p),
        min_p: f.number("min_p", 0.0..=1.0)?.unwrap_or(d.min_p),
        repeat_penalty: repeat.unwrap_or(d.repeat_penalty),
        repeat_last_n: f
            .integer("repeat_last_n", -1..=i64::from(i32::MAX))?
            .and_then(|n| i32::try_from(n).ok())
            .unwrap_or(d.repeat_last_n),
        presence_penalty: f.number("presence_penalty", -2.0..=2.0)?.unwrap_or(d.presence_penalty),
        frequency_penalty: f.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(d.frequency_penalty),
        logit_bias: logit_bias(f)?,
        // -1 asks for a random one, as with llama-server.
        seed: match f.integer("seed", i64::MIN..=i64::MAX)? {
            None | Some(-1) => seed,
            Some(s) => s.cast_unsigned(),
        },
    })
}

fn logit_bias(f: &mut Fields<'_>) -> Result<Vec<(u32, f32)>, ApiError> {
    const NAME: &str = "logit_bias";
    const EXPECTED: &str = "an object of token ids (as strings) to numbers between -100 and 100";
    let Some(raw) = f.raw(NAME) else { return Ok(Vec::new()) };
    // The longest sensible entry is `"4194303": -99.99999999999999,`; a bound before parsing.
    let map = (raw.len() <= LOGIT_BIAS_MAX * 64).then(|| serde_json::from_str::<BTreeMap<String, f64>>(raw));
    let map = match map {
        Some(Ok(map)) if map.len() <= LOGIT_BIAS_MAX => map,
        Some(Err(_)) => return Err(wrong(NAME, EXPECTED, raw)),
        _ => {
            let message = format!("Invalid '{NAME}': at most {LOGIT_BIAS_MAX} tokens can have a bias.");
            return Err(ApiError::invalid(Some(NAME), message));
        }
    };
    let entry = |(id, bias): (&String, &f64)| match id.parse::<u32>() {
        Ok(token) if (-100.0..=100.0).contains(bias) => Ok((token, *bias as f32)),
        _ => {
            let message = format!("Invalid '{NAME}': expected {EXPECTED}, got \"{}\": {bias}.", clip(id));
            Err(ApiError::invalid(Some(NAME), message))
        }
    };
    map.iter().map(entry).collect()
}

fn stop(f: &mut Fields<'_>) -> Result<Vec<String>, ApiError> {
    const NAME: &str = "stop";
    let Some(raw) = f.raw(NAME) else { return Ok(Vec::new()) };
    // Escapes take up to six bytes a byte; a bound before parsing.
    if raw.len() > STOP_STRINGS_MAX * STOP_STRING_BYTES_MAX * 6 + 1024 {
        return Err(stop_bounds());
    }
    let strings = if raw.starts_with('"') {
        serde_json::from_str(raw).map(|s| vec![s])
    } else {
        serde_json::from_str::<Vec<String>>(raw)
    };
    let mut strings = strings.map_err(|_| wrong(NAME, "a string or an array of strings", raw))?;
    if strings.len() > STOP_STRINGS_MAX || strings.iter().any(|s| s.len() > STOP_STRING_BYTES_MAX) {
        return Err(stop_bounds());
    }
    // An empty one stops nothing; llama-server's clients send it for "none".
    strings.retain(|s| !s.is_empty());
    Ok(strings)
}

fn stop_bounds() -> ApiError {
    let message =
        format!("Invalid 'stop': at most {STOP_STRINGS_MAX} strings of at most {STOP_STRING_BYTES_MAX} bytes each.");
    ApiError::invalid(Some("stop"), message)
}

/// `stream_options`: whether a usage chunk is wanted.
fn stream_options(f: &mut Fields<'_>, stream: bool, ignored: &mut Vec<String>) -> Result<bool, ApiError> {
    const NAME: &str = "stream_options";
    let Some(raw) = f.raw(NAME) else { return Ok(false) };
    if !stream {
        let message = "'stream_options' is only allowed when 'stream' is true.";
        return Err(ApiError::invalid(Some(NAME), message));
    }
    let mut options = Fields::parse(raw.as_bytes()).map_err(|_| wrong(NAME, "an object", raw))?;
    let usage = options
        .raw("include_usage")
        .map(|raw| serde_json::from_str(raw).map_err(|_| wrong("stream_options.include_usage", "true or false", raw)));
    ignored.extend(options.rest().into_iter().map(|n| format!("{NAME}.{n}")));
    Ok(usage.transpose()?.unwrap_or(false))
}

/// Refuses answers in any other form than free text.
fn text_only(f: &mut Fields<'_>) -> Result<(), ApiError> {
    if let Some(raw) = f.raw("response_format") {
        let expected = "an object with a 'type'";
        let mut format = Fields::parse(raw.as_bytes()).map_err(|_| wrong("response_format", expected, raw))?;
        match format.raw("type").map(serde_json::from_str::<String>) {
            Some(Ok(kind)) if kind == "text" => {}
            Some(Ok(kind)) => {
                let message = format!("'response_format' of type '{}' is not supported yet, only 'text'.", clip(&kind));
                return Err(ApiError::unsupported_value("response_format", message));
            }
            _ => return Err(wrong("response_format", expected, raw)),
        }
    }
    if let Some(modalities) = f.read::<Vec<String>>("modalities", "an array of strings")?
        && modalities.iter().any(|m| m != "text")
    {
        return Err(ApiError::unsupported_value("modalities", "Only the modality 'text' is supported."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<(Params, Vec<String>), ApiError> {
        let mut fields = Fields::parse(body.as_bytes())?;
        let mut ignored = Vec::new();
        let p = Params::read(&mut fields, 77, &mut ignored)?;
        ignored.extend(fields.rest());
        Ok((p, ignored))
    }

    #[test]
    fn every_setting_arrives() {
        let body = r#"{"model":"m","temperature":0.5,"top_p":0.9,"top_k":7,"min_p":0.1,"repeat_penalty":1.2,
            "repeat_last_n":-1,"presence_penalty":-1,"frequency_penalty":2,"seed":5,"logit_bias":{"3":-100,"1":2.5},
            "stop":["a","","b"],"n":2,"stream":true,"stream_options":{"include_usage":true,"x":1},"max_tokens":9,
            "max_completion_tokens":8,"ignore_eos":true,"cache_prompt":false,"user":"u","response_format":{"type":"text"}}"#;
        let (p, ignored) = read(body).expect("is valid");
        let sampling = Sampling {
            temperature: 0.5,
            top_k: 7,
            top_p: 0.9,
            min_p: 0.1,
            repeat_penalty: 1.2,
            repeat_last_n: -1,
            presence_penalty: -1.0,
            frequency_penalty: 2.0,
            logit_bias: vec![(1, 2.5), (3, -100.0)],
            seed: 5,
        };
        assert_eq!(
            p,
            Params {
                model: "m".into(),
                sampling,
                max_tokens: Some(8),
                stop: vec!["a".into(), "b".into()],
                n: 2,
                stream: true,
                include_usage: true,
                ignore_eos: true,
                cache_prompt: false,
            }
        );
        assert_eq!(ignored, ["stream_options.x", "user"]);
    }

    #[test]
    fn defaults_are_the_engines() {
        let (p, _) = read(r#"{"model":"m","temperature":null,"stop":"x"}"#).expect("is valid");
        assert_eq!(p.sampling, Sampling { seed: 77, ..Sampling::default() });
        assert_eq!((p.n, p.max_tokens, p.stream, p.cache_prompt), (1, None, false, true));
        assert_eq!(p.stop, ["x"]);
        assert_eq!(read(r#"{"model":"m","seed":-1}"#).map(|(p, _)| p.sampling.seed), Ok(77));
        assert_eq!(read(r#"{"model":"m","top_k":-1}"#).map(|(p, _)| p.sampling.top_k), Ok(0));
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let long = format!("\"{}\"", "x".repeat(STOP_STRING_BYTES_MAX + 1));
        let many = format!("[{}]", vec!["\"x\""; STOP_STRINGS_MAX + 1].join(","));
        let rows = [
            ("temperature", "-1"),
            ("temperature", "2.5"),
            ("temperature", "\"hot\""),
            ("temperature", "1e999"),
            ("top_p", "1.5"),
            ("top_k", "-2"),
            ("top_k", "1.5"),
            ("min_p", "-0.1"),
            ("repeat_penalty", "0"),
            ("repeat_last_n", "-2"),
            ("presence_penalty", "3"),
            ("frequency_penalty", "-3"),
            ("n", "0"),
            ("n", "17"),
            ("max_tokens", "0"),
            ("max_completion_tokens", "-5"),
            ("seed", "\"x\""),
            ("seed", "1e99"),
            ("stream", "1"),
            ("ignore_eos", "\"yes\""),
            ("logit_bias", "[1]"),
            ("logit_bias", "{\"a\":1}"),
            ("logit_bias", "{\"1\":101}"),
            ("stop", "1"),
            ("stop", "[1]"),
            ("stop", &long),
            ("stop", &many),
            ("stream_options", "{}"),
            ("response_format", "\"json\""),
            ("modalities", "\"text\""),
        ];
        for (name, value) in rows {
            let e = read(&format!("{{\"model\":\"m\",\"{name}\":{value}}}")).expect_err(name);
            let error = &e.body()["error"];
            assert_eq!((&error["param"], &error["code"]), (&name.into(), &serde_json::Value::Null), "{error}");
            assert!(error["message"].as_str().is_some_and(|m| m.contains(name)), "{error}");
        }
        let e = read("{}").expect_err("no model").body();
        assert_eq!(e["error"]["param"], "model");
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        let rows = [
            ("response_format", r#"{"type":"json_object"}"#, "unsupported_value"),
            ("response_format", r#"{"type":"json_schema","json_schema":{}}"#, "unsupported_value"),
            ("modalities", r#"["text","audio"]"#, "unsupported_value"),
            ("functions", "[]", "unsupported_parameter"),
            ("grammar", r#""root ::= x""#, "unsupported_parameter"),
        ];
        for (name, value, code) in rows {
            let e = read(&format!("{{\"model\":\"m\",\"{name}\":{value}}}")).expect_err(name).body();
            assert_eq!((&e["error"]["param"], &e["error"]["code"]), (&name.into(), &code.into()));
        }
    }

    #[test]
    fn a_bias_beyond_the_vocabulary_is_refused() {
        let (p, _) = read(r#"{"model":"m","logit_bias":{"5":1}}"#).expect("is valid");
        assert_eq!(p.check(6), Ok(()));
        assert_eq!(p.check(5).expect_err("is refused").body()["error"]["param"], "logit_bias");
    }
}
