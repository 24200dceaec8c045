//! Against Jinja2: renderings of real templates, made by tests/data/chat/make_goldens.py.
//!
//! The templates are fetched by tests/models/fetch.py. Without them these tests fail, unless
//! `ROCMFORGE_TEST_MODELS_MISSING=skip` says that this is meant.

use super::template::Source;
use super::*;
use serde_json::{Map, Value as Json, json};
use std::path::{Path, PathBuf};
use std::{env, fs};

fn templates() -> PathBuf {
    let home = || env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cache = || env::var_os("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
    let models =
        env::var_os("ROCMFORGE_TEST_MODELS").map_or_else(|| cache().join("rocmforge/test-models"), PathBuf::from);
    models.join("vocabularies/templates")
}

fn data(name: &str) -> Json {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/chat").join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn fnv(bytes: &[u8]) -> String {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3);
    format!("{:016x}", bytes.iter().fold(0xCBF2_9CE4_8422_2325, step))
}

/// The clock of the goldens.
fn clock(format: &str) -> Result<String, minijinja::Error> {
    let time: jiff::ZonedDateTime = "2026-10-05T12:30:07+00:00[UTC]".parse().unwrap();
    python::strftime(format, &time)
}

/// Renderings that differ from Jinja2's: there a text that went through `safe` makes `+` escape what is
/// added for HTML, so that the tools reach the model as `{&#34;name&#34;: …`. Nobody means that.
const DIFFERENT: [(&str, &str); 3] = [
    ("meetkai-functionary-medium-v3.1", "tools"),
    ("meetkai-functionary-medium-v3.1", "tool_turns"),
    ("meetkai-functionary-medium-v3.1", "two_calls"),
];

#[test]
fn golden() {
    let conversations = data("conversations.json");
    let renderings = data("renderings.json");
    let (mut same, mut refused, mut lenient, mut different, mut wrong) = (0, 0, 0, 0, Vec::new());
    for (name, golden) in renderings.as_object().unwrap() {
        let Ok(text) = fs::read_to_string(templates().join(format!("{name}.jinja"))) else {
            let allowed = env::var("ROCMFORGE_TEST_MODELS_MISSING").is_ok_and(|v| v == "skip");
            assert!(allowed, "template {name} is missing: run tests/models/fetch.py");
            return;
        };
        let source = Source { template: Some(&text), bos: "<s>", eos: "</s>", ..Source::default() };
        let template = Template::build(source, clock);
        assert_eq!(template.origin(), "tokenizer.chat_template", "{name}: {:?}", template.notes());
        for (case, conversation) in conversations.as_object().unwrap() {
            let list = |key: &str| conversation[key].as_array().cloned().unwrap_or_default();
            let extra = conversation["extra"].as_object().cloned().unwrap_or_default();
            let prompt = conversation["add_generation_prompt"].as_bool().unwrap_or(true);
            let found = template.render_json(list("messages"), &list("tools"), prompt, &extra);
            let golden = golden[case].as_str().unwrap();
            let matches = match &found {
                Ok(text) => *golden == format!("{}:{}", text.len(), fnv(text.as_bytes())) || golden == text,
                Err(TemplateError::Raised(why)) => *golden == format!("raised: {why}"),
                Err(_) => golden == "failed",
            };
            match matches {
                true if found.is_ok() => same += 1,
                true => refused += 1,
                // Python stops at `none` where minijinja goes on: nothing to compare with.
                false if found.is_ok() && golden == "failed" => lenient += 1,
                false if DIFFERENT.contains(&(name.as_str(), case.as_str())) => different += 1,
                false => wrong.push(format!("{name} {case}: jinja2 {golden}, here {found:?}")),
            }
        }
    }
    println!("{same} renderings and {refused} refusals are Jinja2's; {lenient} only work here");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(different, DIFFERENT.len(), "a difference is gone: strike it off the list");
    assert!(same > 700);
}

fn chat(messages: &[(Role, &str)]) -> Conversation {
    Conversation::new(messages.iter().map(|(role, text)| Message::text(*role, text)).collect())
}

#[test]
fn fallbacks_are_named() {
    let hi = chat(&[(Role::System, "s"), (Role::User, "Hi")]);
    let plain = Template::new(None, "<s>", "</s>");
    assert_eq!(plain.origin(), "plain");
    assert_eq!(plain.render(&hi).unwrap(), "system: s\nuser: Hi\nassistant:");
    let broken = Template::from_source(Source { template: Some("{% if %}"), chatml: true, ..Source::default() });
    assert_eq!(broken.origin(), "chatml");
    assert!(broken.notes()[0].contains("broken: syntax error"), "{:?}", broken.notes());
    assert_eq!(
        broken.render(&hi).unwrap(),
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn refusals_keep_their_message() {
    let source = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system, ' ~ m.content) }}{% endif %}{{ m.content }}{% endfor %}";
    let template = Template::new(Some(source), "", "");
    assert_eq!(template.render(&chat(&[(Role::System, "x")])), Err(TemplateError::Raised("No system, x".to_owned())));
    assert!(template.notes().iter().any(|n| n.starts_with("a system message: ")), "{:?}", template.notes());
    assert!(!template.notes().iter().any(|n| n.contains("several turns")));
    // A macro between the refusal and us changes nothing.
    let nested =
        "{% macro f() %}{{ raise_exception('deep') }}{% endmacro %}{% for m in messages %}{{ f() }}{% endfor %}";
    let template = Template::new(Some(nested), "", "");
    assert_eq!(template.render(&chat(&[(Role::User, "x")])), Err(TemplateError::Raised("deep".to_owned())));
}

#[test]
fn bombs_are_bounded() {
    let render = |source: &str| Template::new(Some(source), "", "").render(&chat(&[(Role::User, "x")]));
    let started = std::time::Instant::now();
    let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = a * b %}{% endfor %}{% endfor %}";
    assert_eq!(render(loops), Err(TemplateError::Expensive));
    let doubling = "{% set ns = namespace(x='aaaaaaaa') %}{% for a in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}";
    assert!(render(doubling).is_err());
    assert!(render("{{ 'x' * 99999999999 }}").is_err());
    let recursion = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    // As deep as on a thread of the blocking pool.
    let small = std::thread::Builder::new().stack_size(2 << 20);
    let result = small.spawn(move || Template::new(Some(recursion), "", "").render(&chat(&[(Role::User, "x")])));
    assert!(matches!(result.unwrap().join().unwrap(), Err(TemplateError::Failed(_))));
    let parens = format!("{{{{ {}1{} }}}}", "(".repeat(200_000), ")".repeat(200_000));
    assert_eq!(Template::new(Some(&parens), "", "").origin(), "plain");
    assert_eq!(Template::new(Some(&"x".repeat(3 << 20)), "", "").origin(), "plain");
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

/// The fuel suffices for a thousand messages, even where a template looks back from each.
#[test]
fn long_conversations_fit() {
    let roles = [Role::User, Role::Assistant].into_iter().cycle();
    let messages = roles.take(1000).map(|role| Message::text(role, &"word ".repeat(40)));
    let conversation = Conversation::new(messages.collect());
    let mut dear = Vec::new();
    for entry in fs::read_dir(templates()).into_iter().flatten() {
        let path = entry.unwrap().path();
        let Ok(text) = fs::read_to_string(&path) else { continue };
        if path.extension().is_none_or(|e| e != "jinja") {
            continue;
        }
        if Template::new(Some(&text), "<s>", "</s>").render(&conversation) == Err(TemplateError::Expensive) {
            dear.push(path.file_stem().unwrap().to_string_lossy().into_owned());
        }
    }
    dear.sort();
    assert_eq!(dear, [""; 0]);
}

#[test]
fn named_templates_and_variables() {
    let named = [
        ("tool_use", "T{{ tools|length }}"),
        ("rag", "R"),
        ("default", "D{{ tools is none }}{{ bos_token }}{{ think }}"),
    ];
    let template = Template::from_source(Source { named: &named, bos: "<b>", ..Source::default() });
    assert_eq!(template.origin(), "tokenizer.chat_template");
    let mut conversation = chat(&[(Role::User, "x")]);
    conversation.extra = Map::from_iter([("think".to_owned(), json!(7))]);
    assert_eq!(template.render(&conversation).unwrap(), "DTrue<b>7");
    conversation.tools = vec![json!({"type": "function", "function": {"name": "f"}})];
    assert_eq!(template.render(&conversation).unwrap(), "T1");
    assert!(template.notes().iter().any(|n| n == "template `rag` is not used"), "{:?}", template.notes());
}

#[test]
fn templates_get_what_they_want() {
    let parts = "{% for m in messages %}{{ m.role }}:{% for p in m.content %}{{ p.text }}{% endfor %};{% endfor %}";
    let template = Template::new(Some(parts), "", "");
    assert_eq!(template.render(&chat(&[(Role::Developer, "d"), (Role::User, "x")])).unwrap(), "system:d;user:x;");
    assert!(template.notes().iter().any(|n| n.contains("in parts")));
    let strings = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}{{ '' + c.function.arguments }}{% endfor %}{% endfor %}";
    let template = Template::new(Some(strings), "", "");
    let messages = json!([{"role": "user", "content": "u"}, {"role": "assistant", "content": null, "tool_calls":
        [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]}]);
    let conversation = Conversation::from_json(&messages, &Json::Null, &Json::Null).unwrap();
    assert_eq!(template.render(&conversation).unwrap(), "u{\"a\":1}");
    // DeepSeek R1's way: calls are shown only where content is none, their arguments are a string.
    let none =
        strings.replace("{{ m.content }}", "").replace("in m.tool_calls", "in m.tool_calls if m.content is none");
    let template = Template::new(Some(&format!("{{{{ messages[0].content }}}}{none}")), "", "");
    assert_eq!(template.render(&conversation).unwrap(), "u{\"a\":1}");
    // A template that prints Python's word for nothing gets an empty text, whatever else it says of None.
    let prints = "None is None. {% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}{{ c.function.arguments|tojson }}{% endfor %}{% endfor %}";
    assert_eq!(Template::new(Some(prints), "", "").render(&conversation).unwrap(), "None is None. u{\"a\": 1}");
    let developer = Template::new(
        Some("{% for m in messages %}{{ m.role }}{% if m.role == 'developer' %}!{% endif %}{% endfor %}"),
        "",
        "",
    );
    assert_eq!(developer.render(&chat(&[(Role::Developer, "d")])).unwrap(), "developer!");
}

#[test]
fn generation_tags_are_comments() {
    let source = "{% for m in messages %}\n  {%- generation -%} {{ m.content }} {%- endgeneration %}\n{% endfor %}";
    let template = Template::new(Some(source), "", "");
    assert_eq!(template.render(&chat(&[(Role::User, "x")])).unwrap(), "x");
}
