#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ood_segmentation_fuzz::bag(data));
