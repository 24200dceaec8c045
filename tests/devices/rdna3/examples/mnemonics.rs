//! Says for each code object on the command line whether this device understands all of it.

use amdhip64::module::Module;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for path in std::env::args().skip(1) {
        let outcome = std::fs::read(&path)
            .map_err(|e| e.to_string())
            .and_then(|b| Module::load(&b).map_err(|e| format!("{e:?}")));
        match outcome {
            Ok(m) => println!("{path}: {} kernels, {} instructions", m.kernels.len(), m.program.code.len()),
            Err(e) => {
                println!("{path}: {e}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}
