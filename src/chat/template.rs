//! The chat template of a model, rendered as transformers does it with Jinja2.
//!
//! A template is a program that a stranger wrote: it runs with bounded fuel (which pays for memory and
//! output, too) and bounded recursion, and sees nothing but the conversation. A template that is
//! absent or does not parse is replaced by a named one; [`Template::notes`] says why.

use super::message::{Conversation, Message, Role};
use super::python;
use crate::base::limits::{TEMPLATE_BYTES_MAX, TEMPLATE_FUEL, TEMPLATE_RECURSION, TEMPLATE_TRIAL_FUEL};
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, Value, context};
use regex_automata::meta::Regex;
use serde_json::{Map, Value as Json, json};
use thiserror::Error;

/// Why a conversation could not be rendered. All are for the client (HTTP 400): another conversation
/// may be rendered.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TemplateError {
    /// The template refused the conversation by `raise_exception`.
    #[error("the model's chat template refuses this conversation: {0}")]
    Raised(String),
    /// The template failed.
    #[error("the model's chat template failed: {0}")]
    Failed(String),
    /// The template ran longer than its fuel.
    #[error("the model's chat template took too many steps for this conversation")]
    Expensive,
}

/// Where a template comes from and what it may use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Source<'a> {
    /// `tokenizer.chat_template`.
    pub template: Option<&'a str>,
    /// `tokenizer.chat_template.<name>`: name and template.
    pub named: &'a [(&'a str, &'a str)],
    /// Text of the BOS token.
    pub bos: &'a str,
    /// Text of the EOS token.
    pub eos: &'a str,
    /// Whether the vocabulary has `<|im_start|>`, so that ChatML is the likely form.
    pub chatml: bool,
}

/// What a template wants differently from most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wants {
    /// Content as a list of text parts.
    parts: bool,
    /// An empty text where a message has no content.
    text_always: bool,
    /// Arguments of tool calls as JSON in a string.
    string_arguments: bool,
    /// The role `developer`, which others know as `system`.
    developer: bool,
}

/// A chat template, ready to render. Shared between threads as it is.
#[derive(Debug)]
pub struct Template {
    env: Environment<'static>,
    origin: String,
    notes: Vec<String>,
    bos: String,
    eos: String,
    wants: Wants,
}

const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
const PLAIN: &str = "{% for message in messages %}{{ message.role + ': ' + (message.content or '') + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}";
/// Name of the main template.
const DEFAULT: &str = "default";
/// Name of the template for conversations with tools.
const TOOL_USE: &str = "tool_use";

/// The message of a `raise_exception`, kept as the source of the engine's error.
#[derive(Debug, Error)]
#[error("{0}")]
struct Raised(String);

impl Template {
    /// The template `source`; see [`Template::from_source`].
    pub fn new(source: Option<&str>, bos: &str, eos: &str) -> Self {
        Self::from_source(Source { template: source, bos, eos, ..Source::default() })
    }

    /// Compiles a model's templates and tries a few conversations on them. Never fails: what is absent
    /// or broken falls back to `chatml` or `plain`, as [`Template::origin`] says.
    pub fn from_source(source: Source<'_>) -> Self {
        Self::build(source, python::strftime_now)
    }

    /// With a clock of the caller's, for tests.
    pub(super) fn build(source: Source<'_>, clock: fn(&str) -> Result<String, Error>) -> Self {
        let mut template = Self {
            env: environment(clock),
            origin: String::new(),
            notes: Vec::new(),
            bos: source.bos.to_owned(),
            eos: source.eos.to_owned(),
            wants: Wants::default(),
        };
        let mut named: Vec<(&str, &str)> = source.named.to_vec();
        let main = source.template.or_else(|| named.iter().find(|(name, _)| *name == DEFAULT).map(|(_, t)| *t));
        named.retain(|(name, _)| *name != DEFAULT);
        for (name, text) in named {
            let known = name == TOOL_USE;
            match template.add(if known { TOOL_USE } else { "" }, text).filter(|_| known) {
                Some(why) => template.notes.push(format!("template `{name}` is left out: {why}")),
                None if known => {}
                None => template.notes.push(format!("template `{name}` is not used")),
            }
        }
        let broken = match main {
            None => Some("the file has no chat template".to_owned()),
            Some(text) => template.add(DEFAULT, text).map(|why| format!("the file's chat template is broken: {why}")),
        };
        template.wants.developer =
            [main, source.named.first().map(|n| n.1)].iter().flatten().any(|t| t.contains("developer"));
        match broken {
            None => template.origin = "tokenizer.chat_template".to_owned(),
            Some(why) => {
                let (name, text) = if source.chatml { ("chatml", CHATML) } else { ("plain", PLAIN) };
                template.notes.push(format!("{why}: `{name}` is used"));
                template.origin = name.to_owned();
                if let Some(why) = template.add(DEFAULT, text) {
                    template.notes.push(why);
                }
            }
        }
        template.learn();
        template.lint();
        template.env.set_fuel(Some(TEMPLATE_FUEL));
        template
    }

    /// Adds a template; what is wrong with it.
    fn add(&mut self, name: &'static str, text: &str) -> Option<String> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Some(format!("{} bytes, at most {TEMPLATE_BYTES_MAX} are read", text.len()));
        }
        self.env.add_template_owned(name, without_generation(text)).err().map(|e| e.to_string())
    }

    /// Where the template comes from: `model`, or the name of what stands in for it, `chatml` or `plain`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// What was replaced, what the template wants otherwise, and which conversations it refuses.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The prompt of a conversation. It begins with BOS if the template writes it: whoever encodes it
    /// recognises special tokens and adds BOS only if it is not there.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn render(&self, conversation: &Conversation) -> Result<String, TemplateError> {
        let messages = conversation.messages.iter().map(|m| self.message(m)).collect();
        let c = conversation;
        self.render_json(messages, &c.tools, c.add_generation_prompt, &c.extra)
    }

    /// Renders messages as they are.
    pub(super) fn render_json(
        &self,
        messages: Vec<Json>,
        tools: &[Json],
        add_generation_prompt: bool,
        extra: &Map<String, Json>,
    ) -> Result<String, TemplateError> {
        let name = if tools.is_empty() || self.env.get_template(TOOL_USE).is_err() { DEFAULT } else { TOOL_USE };
        let template = self.env.get_template(name).map_err(failed)?;
        let tools = if tools.is_empty() { Value::from(()) } else { Value::from(Serde(tools)) };
        let base = context! {
            messages => Serde(messages),
            tools => tools,
            add_generation_prompt => add_generation_prompt,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
        };
        // What the request adds counts first: a template may be told to think of other tokens.
        template.render(context! { ..Serde(extra), ..base }).map_err(failed)
    }

    /// A message as this template wants it.
    fn message(&self, message: &Message) -> Json {
        let role = match message.role {
            Role::Developer if !self.wants.developer => Role::System,
            role => role,
        };
        let content = match &message.content {
            Some(text) if self.wants.parts => json!([{ "type": "text", "text": text }]),
            Some(text) => json!(text),
            None if self.wants.parts => json!([]),
            None if self.wants.text_always => json!(""),
            None => Json::Null,
        };
        let mut out = Map::new();
        out.insert("role".to_owned(), json!(role.name()));
        out.insert("content".to_owned(), content);
        let texts = [
            ("name", &message.name),
            ("reasoning_content", &message.reasoning),
            ("tool_call_id", &message.tool_call_id),
        ];
        for (key, text) in texts {
            if let Some(text) = text {
                out.insert(key.to_owned(), json!(text));
            }
        }
        if !message.tool_calls.is_empty() {
            let calls = message.tool_calls.iter().map(|call| {
                let arguments = match &call.arguments {
                    object @ Json::Object(_) if self.wants.string_arguments => json!(object.to_string()),
                    other => other.clone(),
                };
                let mut out = Map::new();
                if let Some(id) = &call.id {
                    out.insert("id".to_owned(), json!(id));
                }
                out.insert("type".to_owned(), json!("function"));
                out.insert("function".to_owned(), json!({ "name": call.name, "arguments": arguments }));
                Json::Object(out)
            });
            out.insert("tool_calls".to_owned(), calls.collect());
        }
        Json::Object(out)
    }

    /// Finds out by trying what the template wants otherwise.
    fn learn(&mut self) {
        const TEXT: &str = "Zanzibar7";
        let shows = |template: &Self, messages: Vec<Message>, needle: &str| {
            template.render(&Conversation::new(messages)).is_ok_and(|text| text.contains(needle))
        };
        let user = || Message::text(Role::User, TEXT);
        if !shows(self, vec![user()], TEXT) {
            self.wants.parts = true;
            if shows(self, vec![user()], TEXT) {
                self.notes.push("content is given to the template in parts".to_owned());
            } else {
                self.wants.parts = false;
            }
        }
        let mut call = Message::text(Role::Assistant, "");
        call.content = None;
        call.tool_calls = vec![super::message::ToolCall {
            id: Some("call00001".to_owned()),
            name: "lookup".to_owned(),
            arguments: json!({ "island": TEXT }),
        }];
        let mut result = Message::text(Role::Tool, "12");
        result.tool_call_id = Some("call00001".to_owned());
        result.name = Some("lookup".to_owned());
        let asked = || vec![Message::text(Role::User, "x"), call.clone(), result.clone()];
        // Some show a call only where there is no content; others fail then, or print Python's word for
        // nothing. Some concatenate the arguments, others walk through them.
        let nothing = |text: &str| text.matches("None").count() + text.matches("null").count();
        for (text_always, string_arguments) in [(false, false), (false, true), (true, false), (true, true)] {
            self.wants = Wants { text_always: true, string_arguments, ..self.wants };
            let usual = self.render(&Conversation::new(asked())).map_or(usize::MAX, |text| nothing(&text));
            self.wants.text_always = text_always;
            let shown = self.render(&Conversation::new(asked()));
            if shown.is_ok_and(|text| text.contains(TEXT) && nothing(&text) <= usual) {
                if string_arguments {
                    self.notes.push("arguments of tool calls are given to the template as a string".to_owned());
                }
                return;
            }
        }
        self.wants.string_arguments = false;
        let why = self.render(&Conversation::new(asked())).err().map(|e| format!(": {e}")).unwrap_or_default();
        self.notes.push(format!("tool calls of earlier turns are not shown{why}"));
    }

    /// Tries conversations of the usual shapes and notes which are refused.
    fn lint(&mut self) {
        let user = || Message::text(Role::User, "Hi");
        let assistant = || Message::text(Role::Assistant, "Hello");
        let system = || Message::text(Role::System, "Be brief");
        let shapes = [
            ("a user's message alone", vec![user()]),
            ("a system message", vec![system(), user()]),
            ("several turns", vec![user(), assistant(), user()]),
            ("a system message after the first", vec![user(), assistant(), system(), user()]),
            ("two messages of the user in a row", vec![user(), user()]),
            ("a tool's result", vec![user(), assistant(), Message::text(Role::Tool, "12")]),
        ];
        for (shape, messages) in shapes {
            if let Err(e) = self.render(&Conversation::new(messages)) {
                self.notes.push(format!("{shape}: {e}"));
            }
        }
    }
}

/// The engine, set up as transformers' Jinja2 is.
fn environment(clock: fn(&str) -> Result<String, Error>) -> Environment<'static> {
    let mut env = Environment::new();
    if let Ok(syntax) = env.syntax().to_builder().trim_blocks(true).lstrip_blocks(true).build() {
        env.set_syntax(syntax);
    }
    env.set_fuel(Some(TEMPLATE_TRIAL_FUEL));
    env.set_recursion_limit(TEMPLATE_RECURSION);
    env.set_unknown_method_callback(python::method);
    // Errors with `debug` carry variables, which are the user's text.
    env.set_debug(false);
    env.add_filter("tojson", |value: &Value, args: Kwargs| python::tojson(value, args));
    env.add_filter("from_json", |text: &str| python::from_json(text));
    env.add_test("iterable", |value: &Value| python::iterable(value));
    env.add_function("strftime_now", move |format: &str| clock(format));
    env.add_function("raise_exception", |message: &str| -> Result<Value, Error> {
        let raised = Raised(message.to_owned());
        Err(Error::new(ErrorKind::InvalidOperation, message.to_owned()).with_source(raised))
    });
    env
}

/// `{% generation %}` marks text for training; here it is a comment. Dashes stay, since they trim.
fn without_generation(text: &str) -> String {
    let Ok(tag) = Regex::new(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}") else { return text.to_owned() };
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for found in tag.find_iter(text) {
        let inside = &text[found.start() + 2..found.end() - 2];
        let sign = |c: Option<char>| c.filter(|c| matches!(c, '-' | '+')).map(String::from).unwrap_or_default();
        out.push_str(&text[from..found.start()]);
        out.push_str(&format!("{{#{}{}#}}", sign(inside.chars().next()), sign(inside.chars().next_back())));
        from = found.end();
    }
    out.push_str(&text[from..]);
    out
}

/// What went wrong, by walking from the engine's error to its cause.
fn failed(error: Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(e) = cause {
        if let Some(Raised(message)) = e.downcast_ref() {
            return TemplateError::Raised(message.clone());
        }
        if let Some(e) = e.downcast_ref::<Error>()
            && e.kind() == ErrorKind::OutOfFuel
        {
            return TemplateError::Expensive;
        }
        cause = e.source();
    }
    TemplateError::Failed(error.to_string())
}
