//! Messages of `/v1/chat/completions`, read strictly: a mistake is an error that names its place.
//!
//! Unknown fields are accepted and reported ([`Conversation::ignored`]), since clients send more than
//! the API has; parts that are no text are refused by name, since an answer without them would be wrong.

use crate::base::limits::MESSAGES_MAX;
use serde_json::{Map, Value};
use std::fmt;
use thiserror::Error;

/// What is wrong with the messages of a request. All are the client's mistakes (HTTP 400).
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ChatError {
    /// A value of another shape than the API has.
    #[error("{param}: expected {expected}, found {found}")]
    Shape {
        /// Where: `messages[2].content[0].text`.
        param: String,
        /// What belongs there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A part of a message that is no text. No model here reads it.
    #[error("{param}: `{part}` parts are not supported, only text")]
    Modality {
        /// Where.
        param: String,
        /// The part's type: `image_url`, `input_audio`.
        part: String,
    },
    /// More messages than the limit, or none.
    #[error("messages: {found} messages, expected 1 to {max}")]
    Count {
        /// Messages of the request.
        found: usize,
        /// Most that are accepted.
        max: usize,
    },
}

impl ChatError {
    /// `code` of the error envelope; most shape errors have none.
    pub fn code(&self) -> Option<&'static str> {
        matches!(self, ChatError::Modality { .. }).then_some("unsupported_modality")
    }

    /// `param` of the error envelope.
    pub fn param(&self) -> &str {
        match self {
            ChatError::Shape { param, .. } | ChatError::Modality { param, .. } => param,
            ChatError::Count { .. } => "messages",
        }
    }
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions.
    System,
    /// Instructions, by the newer name.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool.
    Tool,
}

impl Role {
    /// Its name in the API and in templates.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::Developer => "developer",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Role::System, Role::Developer, Role::User, Role::Assistant, Role::Tool].into_iter().find(|r| r.name() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A call that the model made.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// Name of the call, which its result repeats.
    pub id: Option<String>,
    /// The function.
    pub name: String,
    /// Its arguments: an object, or the string that was sent if it is no JSON.
    pub arguments: Value,
}

/// A message. What the client did not send is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// The text; parts of text are joined by newlines. `None` for null or absent.
    pub content: Option<String>,
    /// Thoughts of an earlier answer (`reasoning_content`), for templates that show them.
    pub reasoning: Option<String>,
    /// Name of the speaker or of the tool.
    pub name: Option<String>,
    /// Calls that the model made.
    pub tool_calls: Vec<ToolCall>,
    /// The call that this is the result of.
    pub tool_call_id: Option<String>,
}

impl Message {
    /// A message of text alone.
    pub fn text(role: Role, content: &str) -> Self {
        let content = Some(content.to_owned());
        Self { role, content, reasoning: None, name: None, tool_calls: Vec::new(), tool_call_id: None }
    }

    /// Reads one message; `at` is its place (`messages[3]`). Names of unknown fields go to `ignored`.
    ///
    /// # Errors
    /// [`ChatError`], naming the field.
    pub fn from_json(value: &Value, at: &str, ignored: &mut Vec<String>) -> Result<Self, ChatError> {
        let fields = value.as_object().ok_or_else(|| shape(at, "a message object", value))?;
        let role = text(fields, at, "role")?.ok_or_else(|| missing(at, "role", "a string"))?;
        let role = Role::parse(&role).ok_or_else(|| ChatError::Shape {
            param: format!("{at}.role"),
            expected: "one of system, developer, user, assistant, tool",
            found: format!("`{}`", role.chars().take(40).collect::<String>()),
        })?;
        let message = Self {
            role,
            content: content(fields.get("content").unwrap_or(&Value::Null), at)?,
            reasoning: text(fields, at, "reasoning_content")?,
            name: text(fields, at, "name")?,
            tool_calls: calls(fields.get("tool_calls").unwrap_or(&Value::Null), at)?,
            tool_call_id: text(fields, at, "tool_call_id")?,
        };
        if message.content.is_none() && message.tool_calls.is_empty() && role != Role::Assistant {
            return Err(missing(at, "content", "a string or an array of text parts"));
        }
        const KNOWN: [&str; 6] = ["role", "content", "reasoning_content", "name", "tool_calls", "tool_call_id"];
        for (key, value) in fields {
            if !KNOWN.contains(&key.as_str()) && !value.is_null() {
                let field = format!("messages[].{key}");
                if !ignored.contains(&field) {
                    ignored.push(field);
                }
            }
        }
        Ok(message)
    }
}

/// What a template is rendered from.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// The messages in order.
    pub messages: Vec<Message>,
    /// Tools the model may call, as the request has them; empty for none.
    pub tools: Vec<Value>,
    /// Whether the prompt ends where the model's answer begins.
    pub add_generation_prompt: bool,
    /// Variables for the template (`chat_template_kwargs`).
    pub extra: Map<String, Value>,
    /// Fields of the messages that mean nothing here, as `messages[].name`.
    pub ignored: Vec<String>,
}

impl Conversation {
    /// A conversation of these messages, to be answered.
    pub fn new(messages: Vec<Message>) -> Self {
        Self { messages, tools: Vec::new(), add_generation_prompt: true, extra: Map::new(), ignored: Vec::new() }
    }

    /// Reads `messages`, `tools` and `chat_template_kwargs` of a request (null for absent).
    ///
    /// # Errors
    /// [`ChatError`], naming the field.
    pub fn from_json(messages: &Value, tools: &Value, extra: &Value) -> Result<Self, ChatError> {
        let list = messages.as_array().ok_or_else(|| shape("messages", "an array", messages))?;
        if list.is_empty() || list.len() > MESSAGES_MAX {
            return Err(ChatError::Count { found: list.len(), max: MESSAGES_MAX });
        }
        let mut ignored = Vec::new();
        let read = |(i, m)| Message::from_json(m, &format!("messages[{i}]"), &mut ignored);
        let messages = list.iter().enumerate().map(read).collect::<Result<_, _>>()?;
        let tools = match tools {
            Value::Null => Vec::new(),
            Value::Array(list) => list.iter().enumerate().map(tool).collect::<Result<_, _>>()?,
            other => return Err(shape("tools", "an array", other)),
        };
        let extra = match extra {
            Value::Null => Map::new(),
            Value::Object(map) => map.clone(),
            other => return Err(shape("chat_template_kwargs", "an object", other)),
        };
        Ok(Self { messages, tools, add_generation_prompt: true, extra, ignored })
    }
}

/// A tool definition, passed on as it is once it has what templates need.
fn tool((i, value): (usize, &Value)) -> Result<Value, ChatError> {
    let at = format!("tools[{i}]");
    match value.get("type").and_then(Value::as_str) {
        Some("function") => {}
        _ => return Err(shape(&format!("{at}.type"), "\"function\"", value.get("type").unwrap_or(&Value::Null))),
    }
    let name = value.pointer("/function/name").unwrap_or(&Value::Null);
    match name.as_str() {
        Some(name) if !name.is_empty() => Ok(value.clone()),
        _ => Err(shape(&format!("{at}.function.name"), "a name", name)),
    }
}

fn content(value: &Value, at: &str) -> Result<Option<String>, ChatError> {
    let parts = match value {
        Value::Null => return Ok(None),
        Value::String(text) => return Ok(Some(text.clone())),
        Value::Array(parts) => parts,
        other => return Err(shape(&format!("{at}.content"), "a string or an array of text parts", other)),
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (i, part) in parts.iter().enumerate() {
        let at = format!("{at}.content[{i}]");
        let fields = part.as_object().ok_or_else(|| shape(&at, "a part object", part))?;
        let kind = text(fields, &at, "type")?.ok_or_else(|| missing(&at, "type", "a string"))?;
        let field = match kind.as_str() {
            "text" => "text",
            "refusal" => "refusal",
            _ => {
                let part = kind.chars().take(40).collect();
                return Err(ChatError::Modality { param: format!("{at}.type"), part });
            }
        };
        texts.push(text(fields, &at, field)?.ok_or_else(|| missing(&at, field, "a string"))?);
    }
    Ok(Some(texts.join("\n")))
}

fn calls(value: &Value, at: &str) -> Result<Vec<ToolCall>, ChatError> {
    let list = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list,
        other => return Err(shape(&format!("{at}.tool_calls"), "an array", other)),
    };
    let read = |(i, call): (usize, &Value)| {
        let at = format!("{at}.tool_calls[{i}]");
        let fields = call.as_object().ok_or_else(|| shape(&at, "a call object", call))?;
        let function = fields.get("function").unwrap_or(&Value::Null);
        let at_function = format!("{at}.function");
        let function = function.as_object().ok_or_else(|| shape(&at_function, "an object", function))?;
        let name = text(function, &at_function, "name")?;
        let arguments = match function.get("arguments") {
            None | Some(Value::Null) => Value::Object(Map::new()),
            // The API sends JSON in a string; templates walk through the object.
            Some(Value::String(json)) => match serde_json::from_str(json) {
                Ok(object @ Value::Object(_)) => object,
                _ => Value::String(json.clone()),
            },
            Some(object @ Value::Object(_)) => object.clone(),
            Some(other) => return Err(shape(&format!("{at_function}.arguments"), "JSON in a string", other)),
        };
        Ok(ToolCall {
            id: text(fields, &at, "id")?,
            name: name.ok_or_else(|| missing(&at_function, "name", "a string"))?,
            arguments,
        })
    };
    list.iter().enumerate().map(read).collect()
}

/// A string field; `None` for null or absent.
fn text(fields: &Map<String, Value>, at: &str, key: &str) -> Result<Option<String>, ChatError> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(shape(&format!("{at}.{key}"), "a string", other)),
    }
}

fn missing(at: &str, key: &str, expected: &'static str) -> ChatError {
    ChatError::Shape { param: format!("{at}.{key}"), expected, found: "nothing".to_owned() }
}

fn shape(param: &str, expected: &'static str, value: &Value) -> ChatError {
    let found = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "a bool".to_owned(),
        Value::Number(_) => "a number".to_owned(),
        Value::String(s) => format!("`{}`", s.chars().take(40).collect::<String>()),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    ChatError::Shape { param: param.to_owned(), expected, found }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(messages: Value) -> Result<Conversation, ChatError> {
        Conversation::from_json(&messages, &Value::Null, &Value::Null)
    }

    #[test]
    fn reads_what_clients_send() {
        let conversation = read(json!([
            {"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "user", "content": "hi", "cache_control": {"type": "ephemeral"}},
            {"role": "assistant", "content": null, "refusal": null, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}},
                {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "not json"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "1"},
        ]))
        .unwrap();
        assert_eq!(conversation.messages[0].content.as_deref(), Some("a\nb"));
        let calls = &conversation.messages[2].tool_calls;
        assert_eq!((calls[0].arguments.clone(), calls[1].arguments.clone()), (json!({"x": 1}), json!("not json")));
        assert_eq!(conversation.ignored, ["messages[].cache_control"]);
    }

    #[test]
    fn mistakes_name_their_place() {
        let cases = [
            (json!({}), "messages: expected an array, found an object"),
            (json!([]), "messages: 0 messages, expected 1 to 4096"),
            (json!(["x"]), "messages[0]: expected a message object, found `x`"),
            (json!([{"content": "x"}]), "messages[0].role: expected a string, found nothing"),
            (
                json!([{"role": "bot", "content": "x"}]),
                "messages[0].role: expected one of system, developer, user, assistant, tool, found `bot`",
            ),
            (
                json!([{"role": "user"}]),
                "messages[0].content: expected a string or an array of text parts, found nothing",
            ),
            (
                json!([{"role": "user", "content": 5}]),
                "messages[0].content: expected a string or an array of text parts, found a number",
            ),
            (
                json!([{"role": "user", "content": [{"type": "text"}]}]),
                "messages[0].content[0].text: expected a string, found nothing",
            ),
            (
                json!([{"role": "assistant", "tool_calls": [{"function": {"arguments": ""}}]}]),
                "messages[0].tool_calls[0].function.name: expected a string, found nothing",
            ),
        ];
        for (messages, expected) in cases {
            assert_eq!(read(messages).unwrap_err().to_string(), expected);
        }
        let error = read(json!([{"role": "user", "content": [{"type": "text", "text": "x"},
            {"type": "image_url", "image_url": {"url": "data:"}}]}]))
        .unwrap_err();
        assert_eq!(error.code(), Some("unsupported_modality"));
        assert_eq!(error.param(), "messages[0].content[1].type");
        assert!(error.to_string().contains("`image_url`"));
        let user = json!([{"role": "user", "content": "x"}]);
        let tools = |tools: Value| Conversation::from_json(&user, &tools, &Value::Null).map(|c| c.tools.len());
        assert_eq!(tools(json!([{"type": "function", "function": {"name": "f"}}])), Ok(1));
        assert_eq!(tools(json!([{"type": "web_search"}])).unwrap_err().param(), "tools[0].type");
        assert_eq!(tools(json!([{"type": "function", "function": {}}])).unwrap_err().param(), "tools[0].function.name");
    }
}
