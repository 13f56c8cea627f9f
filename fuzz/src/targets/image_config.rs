//! Image configs: read, and finished with the layers of a build (the first byte says how many). A
//! finished config reads, names its layers and is finished.

use gateway_images::config::{FinishOptions, ImageConfig, LayerInfo, Timestamp, finish};
use gateway_images::digest::Digest;
use gateway_images::platform::Platform;

/// One run with one input.
pub fn run(bytes: &[u8]) {
    let Some((first, config)) = bytes.split_first() else {
        return;
    };
    if let Ok(config) = ImageConfig::parse(config) {
        config.platform();
        let _ = config.diff_ids_of(1);
    }
    let count = first % 4;
    let layers: Vec<LayerInfo> = (0..count)
        .map(|number| LayerInfo {
            diff_id: Digest::of(&[number]),
            created: Timestamp::from_unix(i64::from(*first) * 1_000_000),
            description: (number % 2 == 0).then(|| "RUN make".to_owned()),
        })
        .collect();
    let epochs = [None, Timestamp::from_unix(1_600_000_000)];
    let bases = [None, Some(config)];
    for epoch in epochs {
        for base in bases {
            let options = FinishOptions {
                epoch,
                base,
                inline_cache: None,
            };
            let Ok(finished) = finish(Some(config), &layers, &Platform::host(), &options) else {
                continue;
            };
            let again = finish(Some(&finished), &layers, &Platform::host(), &options);
            let again = again.expect("a finished config can be finished");
            let shown = String::from_utf8_lossy(&finished);
            assert_eq!(String::from_utf8_lossy(&again), shown);
            if let Ok(read) = ImageConfig::parse(&finished) {
                let diff_ids = read.diff_ids_of(layers.len()).expect("all layers");
                assert!(
                    diff_ids
                        .iter()
                        .eq(layers.iter().map(|layer| &layer.diff_id))
                );
            }
        }
    }
}
