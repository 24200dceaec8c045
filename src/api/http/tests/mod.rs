//! The API over real sockets, with engines that do as a test says.

mod cancel;
mod errors;
mod fixture;
mod loader;
mod shapes;
mod streams;
