//! Chat: messages of the OpenAI API, and the model's own template that turns them into a prompt.

pub mod message;
mod python;
pub mod template;
#[cfg(test)]
mod tests;

pub use message::{ChatError, Conversation, Message, Role, ToolCall};
pub use template::{Template, TemplateError};
