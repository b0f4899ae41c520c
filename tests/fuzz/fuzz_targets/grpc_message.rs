//! Coverage-guided fuzzing of the parser `grpc_message`: `make fuzz`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hf_tests::fuzz::run("grpc_message", data));
