//! Coverage-guided fuzzing of the parser `cluster_view`: `make fuzz`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hf_tests::fuzz::run("cluster_view", data));
