//! eStargz layers, of which the table of contents says what is where: found by the footer, read, verified.

use std::fs::File;
use std::io::{Seek, Write};

use gateway_images::layer::estargz::Estargz;

/// One run with one input.
pub fn run(bytes: &[u8]) {
    let mut blob = tempfile::tempfile().expect("a temporary file");
    blob.write_all(bytes).expect("written");
    let again = |blob: &mut File| {
        blob.rewind().expect("at its start");
        blob.try_clone().expect("another handle")
    };
    match Estargz::open(again(&mut blob)) {
        Ok(Some(layer)) => drop(layer.verify()),
        Ok(None) => {}
        Err(error) => drop(error.to_string()),
    }
    if let Ok(mut payload) = Estargz::payload(again(&mut blob)) {
        let read = std::io::copy(&mut payload, &mut std::io::sink()).expect("read");
        assert!(read <= bytes.len() as u64);
    }
}
