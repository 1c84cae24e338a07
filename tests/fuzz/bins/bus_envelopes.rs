//! See the function of this name in `targets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| synckit_fuzz::targets::bus_envelopes(data));
