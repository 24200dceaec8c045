//! Pre-tokenizers: how a byte-level vocabulary cuts text into words before merging.
//!
//! `tokenizer.ggml.pre` names one. The names are a table; what they stand for is a family, a list
//! of stages that each cut the pieces of the stage before. Source of names and patterns: llama.cpp's
//! `llama-vocab.cpp` and the models' own `tokenizer.json`.

use super::error::TokenizerError;
use super::scan::{self, Cl100k};
use regex_automata::Input;
use regex_automata::meta::Regex;

/// One cut.
#[derive(Debug)]
enum Stage {
    Gpt2,
    Cl100k(Cl100k),
    Lines,
    DigitsFromRight,
    AsciiGroups,
    /// Pattern 0 is all but white space, pattern 1 (if there) a run of it, shortened by the rule.
    Regex(Regex, Blanks),
}

/// What becomes of a run of white space before other text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blanks {
    /// `\s+(?!\S)|\s+`: all but the last character.
    GiveBack,
    /// `\s{512}(?!\S)|\s{256}(?!\S)|…|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}`: the longest power of two.
    Powers,
}

/// A pre-tokenizer, ready to cut.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    stages: Vec<Stage>,
}

impl PreTokenizer {
    /// Cuts `text` into words, in order and without loss.
    pub fn split(&self, text: &str, emit: &mut dyn FnMut(&str)) {
        cut(&self.stages, text, emit);
    }
}

fn cut(stages: &[Stage], text: &str, emit: &mut dyn FnMut(&str)) {
    match stages {
        [] => emit(text),
        [stage] => stage.split(text, emit),
        [stage, rest @ ..] => stage.split(text, &mut |piece| cut(rest, piece, emit)),
    }
}

impl Stage {
    fn split(&self, text: &str, emit: &mut dyn FnMut(&str)) {
        match self {
            Stage::Gpt2 => scan::gpt2(text, emit),
            Stage::Cl100k(form) => scan::cl100k(*form, text, emit),
            Stage::Lines => scan::lines(text, emit),
            Stage::DigitsFromRight => scan::digits_from_right(text, emit),
            Stage::AsciiGroups => scan::ascii_groups(text, emit),
            Stage::Regex(regex, blanks) => {
                let mut at = 0;
                while let Some(found) = regex.search(&Input::new(text).range(at..)) {
                    if found.start() > at {
                        emit(&text[at..found.start()]);
                    }
                    let mut end = found.end();
                    if found.pattern().as_usize() == 1 {
                        end = found.start() + blanks.keep(&text[found.start()..end], end == text.len());
                    }
                    emit(&text[found.start()..end]);
                    at = end;
                }
                if at < text.len() {
                    emit(&text[at..]);
                }
            }
        }
    }
}

impl Blanks {
    /// Bytes of the run to take; `last` if nothing follows it.
    fn keep(self, run: &str, last: bool) -> usize {
        let n = run.chars().count();
        let take = match self {
            Blanks::GiveBack if last || n == 1 => n,
            Blanks::GiveBack => n - 1,
            Blanks::Powers => {
                let fits = |m: usize| n > m || (n == m && last);
                [512, 256, 128, 64, 32, 16, 8, 4, 2].into_iter().find(|m| fits(*m)).unwrap_or(1)
            }
        };
        run.char_indices().nth(take).map_or(run.len(), |(at, _)| at)
    }
}

/// The families: names that share their cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Default,
    Gpt2,
    Digits,
    Llama3,
    Qwen2,
    Qwen35,
    NoContractions,
    Jais2,
    Falcon,
    DeepseekLlm,
    DeepseekCoder,
    DeepseekV3,
    Spark,
    Youtu,
    Bloom,
    Viking,
    Tekken,
    Chameleon,
    Gpt4o,
    GraniteMulti,
    TinyAya,
    KimiK2,
    SuperBpe,
    Bailing,
    SeedCoder,
    Afmoe,
    Laguna,
    ExaoneMoe,
    MiniCpm5,
    /// Raw UTF-8 with U+2581 for a space; no cut but at newlines.
    Raw,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pre {
    name: &'static str,
    family: Family,
    /// A word that is a token is taken as it is, without merging.
    pub ignore_merges: bool,
    /// `add_bos_token` where the file does not say.
    pub add_bos: bool,
    /// Whether the default BOS (11) applies where the file names none.
    pub default_bos: bool,
}

const fn row(name: &'static str, family: Family) -> Pre {
    Pre { name, family, ignore_merges: false, add_bos: false, default_bos: true }
}
const fn whole(name: &'static str, family: Family) -> Pre {
    Pre { ignore_merges: true, ..row(name, family) }
}
const fn with_bos(name: &'static str, family: Family) -> Pre {
    Pre { add_bos: true, ..whole(name, family) }
}

#[rustfmt::skip]
static NAMES: &[Pre] = &[
    row("default", Family::Default),
    row("gpt-2", Family::Gpt2), row("phi-2", Family::Gpt2), row("jina-es", Family::Gpt2), row("jina-de", Family::Gpt2),
    row("gigachat", Family::Gpt2), row("jina-v2-es", Family::Gpt2), row("jina-v2-de", Family::Gpt2),
    row("a.x-4.0", Family::Gpt2), row("mellum", Family::Gpt2), row("modern-bert", Family::Gpt2),
    row("jina-v1-en", Family::Gpt2), row("jina-v2-code", Family::Gpt2), row("roberta-bpe", Family::Gpt2),
    row("exaone4", Family::Gpt2), row("mpt", Family::Gpt2), row("olmo", Family::Gpt2), row("jais", Family::Gpt2),
    row("trillion", Family::Gpt2), row("granite-docling", Family::Gpt2),
    row("starcoder", Family::Digits), row("refact", Family::Digits), row("command-r", Family::Digits),
    row("smollm", Family::Digits), row("codeshell", Family::Digits), row("exaone", Family::Digits),
    row("minerva-7b", Family::Digits), row("mellum2", Family::Digits),
    with_bos("llama3", Family::Llama3), with_bos("llama-v3", Family::Llama3), with_bos("llama-bpe", Family::Llama3),
    with_bos("falcon3", Family::Llama3), with_bos("falcon-h1", Family::Llama3), with_bos("pixtral", Family::Llama3),
    with_bos("midm-2.0", Family::Llama3), with_bos("lfm2", Family::Llama3), with_bos("jina-v5-nano", Family::Llama3),
    row("dbrx", Family::Llama3), row("smaug-bpe", Family::Llama3),
    Pre { default_bos: false, ..row("chatglm-bpe", Family::Llama3) },
    Pre { default_bos: false, ..whole("glm4", Family::Llama3) }, Pre { default_bos: false, ..whole("glm5", Family::Llama3) },
    row("stablelm2", Family::Qwen2), row("qwen2", Family::Qwen2), row("deepseek-r1-qwen", Family::Qwen2),
    row("kormo", Family::Qwen2), row("f2llmv2", Family::Qwen2), row("megrez", Family::Qwen2),
    row("hunyuan", Family::Qwen2), row("solar-open", Family::Qwen2), row("grok-2", Family::Qwen2),
    row("qwen35", Family::Qwen35), row("ufakzeka", Family::NoContractions), row("jais-2", Family::Jais2),
    row("falcon", Family::Falcon),
    row("deepseek-llm", Family::DeepseekLlm), row("deepseek-coder", Family::DeepseekCoder),
    row("deepseek-v3", Family::DeepseekV3), row("hunyuan-dense", Family::DeepseekV3),
    row("joyai-llm", Family::DeepseekV3), row("hy_v4", Family::DeepseekV3),
    row("spark2_5", Family::Spark), whole("youtu", Family::Youtu),
    row("bloom", Family::Bloom), row("poro-chat", Family::Bloom), row("gpt3-finnish", Family::Bloom),
    row("viking", Family::Viking), with_bos("tekken", Family::Tekken),
    Pre { add_bos: true, ..row("chameleon", Family::Chameleon) },
    row("gpt-4o", Family::Gpt4o), row("llama4", Family::Gpt4o), row("kanana2", Family::Gpt4o),
    row("talkie", Family::Gpt4o), row("minimax-m2", Family::Gpt4o),
    whole("granite-embed-multi-97m", Family::GraniteMulti),
    row("tiny_aya", Family::TinyAya), row("cohere2moe", Family::TinyAya), row("kimi-k2", Family::KimiK2),
    row("superbpe", Family::SuperBpe), row("bailingmoe", Family::Bailing), row("bailingmoe2", Family::Bailing),
    row("llada-moe", Family::Bailing), row("seed-coder", Family::SeedCoder), row("afmoe", Family::Afmoe),
    row("laguna", Family::Laguna), row("exaone-moe", Family::ExaoneMoe), whole("minicpm5", Family::MiniCpm5),
    Pre { add_bos: true, ..row("gemma4", Family::Raw) },
    Pre { add_bos: true, ..row("granite-embed-multi-311m", Family::Raw) }, row("sarvam-moe", Family::Raw),
];

const CONTRACTIONS: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
const DEEPSEEK_MAIN: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n{L}{P}{S}]?[{L}{M}]+"##;
const HAN: &str = r"\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}\x{2B740}-\x{2B81F}\x{2B820}-\x{2CEAF}\x{2CEB0}-\x{2EBEF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}";
const DEEPSEEK_WORD: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";

/// As llama.cpp matches it: white space inside of the ranges (U+3000 and others) does not count.
const CJK: &str = r"[[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]&&\S]+";

/// `afmoe` writes the first compatibility ideograph, but the file has U+8C48; llama.cpp reads it so.
const ASIAN: &str = r"[\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{8C48}-\x{FAFF}\x{3040}-\x{309F}\x{30A0}-\x{30FF}\x{FF65}-\x{FF9F}\x{2F00}-\x{2FDF}\x{E40}-\x{E7F}\x{E80}-\x{EFF}\x{1780}-\x{17FF}\x{1000}-\x{109F}\x{AA60}-\x{AA7F}\x{A9E0}-\x{A9FF}\x{AC00}-\x{D7AF}\x{1100}-\x{11FF}]+";

impl Family {
    /// The cuts, in order.
    fn stages(self) -> Result<Vec<Stage>, TokenizerError> {
        use Stage::{AsciiGroups, DigitsFromRight, Gpt2, Lines};
        let cl = |digits, marks, contractions| Stage::Cl100k(Cl100k { digits, marks, contractions });
        let number = || regex("[{N}]");
        let numbers = || regex("[{N}]{1,3}");
        let han_kana = || regex("[一-龥぀-ゟ゠-ヿ]+");
        // Words in two cases; what stands after the letters differs.
        let cased = |letters: &str, contractions: &str, digits: &str| {
            let (upper, lower) = (format!("[[{letters}]&&[^a-z]]"), format!("[[{letters}]&&[^A-Z]]"));
            blanks(&format!(
                r"[^\r\n{{L}}{{N}}]?{upper}*{lower}+{contractions}|[^\r\n{{L}}{{N}}]?{upper}+{lower}*{contractions}|[{{N}}]{digits}| ?[^\s{{L}}{{N}}]+[\r\n/]*|\s*[\r\n]+"
            ))
        };
        let optional = format!("{CONTRACTIONS}?");
        let plain = |letters: &str, digits: &str| {
            blanks(&format!(
                r"[^\r\n{{L}}{{N}}]?[{letters}]+{optional}|[{{N}}]{digits}| ?[^\s{{L}}{{N}}]+[\r\n/]*|\s*[\r\n]+"
            ))
        };
        Ok(match self {
            Family::Default => vec![regex(r"[{P}\$\+<=>\^~\|]+")?, Gpt2, regex("[{N}]+")?, regex("[0-9][0-9][0-9]")?],
            Family::Gpt2 => vec![Gpt2],
            Family::Digits => vec![number()?, Gpt2],
            Family::Llama3 => vec![cl(3, false, true)],
            Family::Qwen2 => vec![cl(1, false, true)],
            Family::Qwen35 => vec![cl(1, true, true)],
            Family::NoContractions => vec![cl(1, false, false)],
            Family::Jais2 => {
                let main = format!(
                    r"{CONTRACTIONS}|[^\r\n{{L}}{{N}}]?[{{L}}]+|[{{N}}]{{1,3}}| ?[^\s{{L}}{{N}}]+[\r\n]*|\s*[\r\n]+"
                );
                vec![Stage::Regex(compile(&[&main, r"\s+"])?, Blanks::Powers)]
            }
            Family::Falcon => vec![regex(r"[{P}\$\+<=>\^~\|`]+")?, Gpt2, regex("[0-9][0-9][0-9]")?],
            Family::DeepseekLlm => vec![
                regex(r"[\r\n]")?,
                regex(DEEPSEEK_WORD)?,
                regex(r"\s?[!-/:-~！-／：-～‘-‟、-。]+")?,
                regex(r"\s+$")?,
                regex(CJK)?,
                regex("[{N}]+")?,
            ],
            Family::DeepseekCoder => {
                vec![regex(r"[\r\n]")?, regex(r"\s?[{L}]+")?, regex(r"\s?[{P}]+")?, regex(CJK)?, number()?]
            }
            Family::DeepseekV3 => {
                vec![numbers()?, han_kana()?, blanks(&format!(r"{DEEPSEEK_MAIN}| ?[{{P}}{{S}}]+[\r\n]*|\s*[\r\n]+"))?]
            }
            Family::Spark => {
                vec![numbers()?, han_kana()?, blanks(&format!(r"{DEEPSEEK_MAIN}| ?[{{P}}{{S}}]+|[\r\n]"))?, number()?]
            }
            Family::Youtu => vec![
                regex("[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+")?,
                plain("{L}{M}", "")?,
            ],
            Family::Bloom => vec![regex(r" ?[^(\s|.,!?…。，、।۔،)]+")?],
            Family::Viking => vec![regex(r" ?[^(\s|.,!?…。，、।۔،)]+")?, number()?],
            Family::Tekken => vec![cased("{L}", "", "")?],
            Family::Chameleon => vec![
                regex("<sentinel:[0-9]+>")?,
                regex("(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z")?,
                regex(r"([\t\n]|    |  )")?,
                number()?,
                regex(r"[{P}!-/:-@\[-`{-~]")?,
                Gpt2,
            ],
            Family::Gpt4o => vec![cased("{L}", &optional, "{1,3}")?],
            Family::GraniteMulti => vec![cased("{L}{M}", &optional, "{1,3}")?],
            Family::TinyAya => vec![DigitsFromRight, plain("{L}{M}", "{1,3}")?],
            Family::KimiK2 => vec![blanks(&format!(
                r"[{HAN}]+|[^\r\n{{L}}{{N}}]?[{{L}}&&[^{HAN}]]+{optional}|[{{N}}]{{1,3}}| ?[^\s{{L}}{{N}}]+[\r\n]*|\s*[\r\n]+"
            ))?],
            Family::SuperBpe => vec![regex("[{N}]+")?, AsciiGroups],
            Family::Bailing => vec![blanks(
                r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n{L}{N}]?[{L}]+|[{N}]| ?[^\s{L}{N}]+[\r\n]*|\s*[\r\n]",
            )?],
            Family::SeedCoder => {
                let rest = r"[^\r\n{L}{N}]?[{L}]+|[{N}]| ?[^\s{L}{N}\r\n]+|\s*[\r\n]+";
                vec![blanks(&format!("{CONTRACTIONS}|{rest}"))?]
            }
            Family::Afmoe => vec![
                DigitsFromRight,
                regex(ASIAN)?,
                blanks(&format!(r"{DEEPSEEK_MAIN}| ?[{{P}}{{S}}]+[\r\n]*|\s*[\r\n]+"))?,
            ],
            Family::Laguna => vec![Lines, cl(1, false, true)],
            Family::ExaoneMoe => {
                let rest = r"[^\r\n{L}{N}]?(?:[{L}][{M}]*(?: [{L}][{M}]*)*)+|[{N}]| ?[^\s{L}{N}]+[\r\n/]?|\s*[\r\n]";
                vec![blanks(&format!("{CONTRACTIONS}|{rest}"))?]
            }
            Family::MiniCpm5 => {
                let rest = r"[^\r\n{L}{N}]?[{L}]+|[{N}]+| ?[^\s{L}{N}]+[\r\n]*|\s*[\r\n]+";
                vec![numbers()?, blanks(&format!("{CONTRACTIONS}|{rest}"))?]
            }
            Family::Raw => vec![Lines],
        })
    }
}

/// A stage of one pattern.
fn regex(pattern: &str) -> Result<Stage, TokenizerError> {
    Ok(Stage::Regex(compile(&[pattern])?, Blanks::GiveBack))
}

/// A stage of a pattern that goes on `|\s+(?!\S)|\s+`.
fn blanks(pattern: &str) -> Result<Stage, TokenizerError> {
    Ok(Stage::Regex(compile(&[pattern, r"\s+"])?, Blanks::GiveBack))
}

/// Compiles patterns in which `{L}`, `{N}`, `{M}`, `{P}`, `{S}` inside a class stand for the
/// characters of a general category, in the Unicode version of [`super::unicode`].
fn compile(patterns: &[&str]) -> Result<Regex, TokenizerError> {
    let spelled: Vec<String> = patterns
        .iter()
        .map(|pattern| {
            let mut spelled = (*pattern).to_owned();
            for (name, bit) in [("{L}", 1), ("{N}", 2), ("{M}", 4), ("{P}", 8), ("{S}", 16)] {
                if spelled.contains(name) {
                    spelled = spelled.replace(name, &scan::ranges(bit));
                }
            }
            spelled
        })
        .collect();
    Regex::new_many(&spelled).map_err(|e| TokenizerError::Search(e.to_string()))
}

impl Pre {
    /// The row of `name`.
    ///
    /// # Errors
    /// [`TokenizerError::Pre`] with the nearest names, if there is none.
    pub fn find(name: &str) -> Result<&'static Pre, TokenizerError> {
        NAMES.iter().find(|pre| pre.name == name).ok_or_else(|| {
            let near = crate::base::name::nearest(name, NAMES.iter().map(|pre| pre.name));
            let hint = if near.is_empty() { String::new() } else { format!("; nearest known: {}", near.join(", ")) };
            TokenizerError::Pre { found: super::error::shown(name.as_bytes()), hint }
        })
    }

    /// The name in the table.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether words are raw UTF-8 with U+2581 for a space instead of byte-level text.
    pub fn raw(&self) -> bool {
        self.family == Family::Raw
    }

    /// Whether a run of newlines that is a token is taken whole, and BOS is added whatever the file says.
    pub fn gemma(&self) -> bool {
        self.raw() && self.add_bos
    }

    /// The pre-tokenizer itself.
    ///
    /// # Errors
    /// Never with the patterns of this file; the tests compile all.
    pub fn build(&self) -> Result<PreTokenizer, TokenizerError> {
        Ok(PreTokenizer { stages: self.family.stages()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_compiles_and_loses_nothing() {
        let text =
            "I'M 12345 día\u{301}s…\n\n  汉字かな한글 ไทย x_y(1){}\t\t\u{3000}é 'll IMGIMGABZ <sentinel:12>\r\n ";
        for pre in NAMES {
            let built = pre.build().unwrap();
            let mut joined = String::new();
            built.split(text, &mut |piece| joined.push_str(piece));
            assert_eq!(joined, text, "{}", pre.name);
        }
    }

    #[test]
    fn unknown_name_lists_the_nearest() {
        let error = Pre::find("llama-bpf").unwrap_err();
        assert!(error.to_string().contains("nearest known: llama-bpe"), "{error}");
        assert!(Pre::find("Qwen2").unwrap_err().to_string().contains("qwen2"));
    }

    #[test]
    fn powers_of_white_space() {
        assert_eq!(Blanks::Powers.keep(&" ".repeat(9), false), 8);
        assert_eq!(Blanks::Powers.keep(&" ".repeat(8), false), 4);
        assert_eq!(Blanks::Powers.keep(&" ".repeat(8), true), 8);
        assert_eq!(Blanks::Powers.keep(" ", false), 1);
    }
}
