#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    // Its hook would end the process at panics of the Parquet reader, which are caught.
    init: {
        let _ = std::panic::take_hook();
    },
    |data: &[u8]| mvsink_persist::testing::fuzz::data_file(data)
);
