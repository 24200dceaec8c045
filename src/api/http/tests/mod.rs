//! The API over real sockets, with engines that do as a test says.

mod cancel;
mod errors;
mod fixture;
mod shapes;
mod streams;
