//! Definitions and what is known of their ops.

use serde_json::{Map, Value, json};

use super::form::{Form, base64};
use crate::pb;

/// A whole definition: ops and metadata by digest, and where they come from.
///
/// # Errors
/// When an op is no message.
pub fn definition(definition: &pb::Definition) -> Result<Value, prost::DecodeError> {
    let mut ops = Map::new();
    for bytes in &definition.def {
        let op = <pb::Op as prost::Message>::decode(bytes.as_slice())?;
        ops.insert(crate::digest_of(bytes), super::op(&op));
    }
    let known = definition.metadata.iter();
    let known: Map<String, Value> = known
        .map(|(digest, known)| (digest.clone(), metadata(known)))
        .collect();
    let source = definition.source.clone().unwrap_or_default();
    Ok(json!({"def": ops, "metadata": known, "source": self::source(&source)}))
}

/// What is known of an op besides it.
pub fn metadata(metadata: &pb::OpMetadata) -> Value {
    Form::Struct.metadata(metadata)
}

/// A build file, as answers to lint requests carry it.
pub fn source_info(info: &pb::SourceInfo) -> Value {
    Form::Struct.source_info(info)
}

/// Where ops came from, as graphs carry it.
pub fn source(source: &pb::Source) -> Value {
    Form::Struct.source(source)
}

/// A definition as build files carry it: its ops as bytes.
pub fn embedded(definition: &pb::Definition) -> Value {
    graph(Form::Struct, definition)
}

/// Lines of a build file.
pub fn location(location: &pb::Location) -> Value {
    let form = Form::Struct;
    let position = |position: &pb::Position| {
        let mut o = form.object();
        o.number("line", position.line.into());
        o.number("character", position.character.into());
        o.done()
    };
    let mut out = form.object();
    out.number("sourceIndex", location.source_index.into());
    out.list("ranges", &location.ranges, |range| {
        let mut o = form.object();
        o.maybe("start", range.start.as_ref().map(position));
        o.maybe("end", range.end.as_ref().map(position));
        o.done()
    });
    out.done()
}

/// Standard base64 with padding.
pub fn bytes(bytes: &[u8]) -> Value {
    json!(base64(bytes))
}

/// A graph inside of something, in the form of what is around it.
pub(super) fn graph(form: Form, definition: &pb::Definition) -> Value {
    let mut out = form.object();
    out.list("def", &definition.def, |bytes| json!(base64(bytes)));
    out.entries("metadata", &definition.metadata, |m| form.metadata(m));
    out.maybe("Source", definition.source.as_ref().map(|s| form.source(s)));
    out.done()
}

impl Form {
    fn metadata(self, metadata: &pb::OpMetadata) -> Value {
        let mut out = self.object();
        out.flag(
            self.name("ignoreCache", "ignore_cache"),
            metadata.ignore_cache,
        );
        out.map("description", &metadata.description);
        let export = |export: &pb::ExportCache| {
            let mut o = self.object();
            o.flag("Value", export.value);
            o.done()
        };
        out.maybe(
            self.name("exportCache", "export_cache"),
            metadata.export_cache.as_ref().map(export),
        );
        out.entries("caps", &metadata.caps, |needed| json!(needed));
        let group = |group: &pb::ProgressGroup| {
            let mut o = self.object();
            o.text("id", &group.id);
            o.text("name", &group.name);
            o.flag("weak", group.weak);
            o.done()
        };
        out.maybe(
            self.name("progressGroup", "progress_group"),
            metadata.progress_group.as_ref().map(group),
        );
        let resources = |limits: &pb::LinuxResources| {
            let mut o = self.object();
            o.int64("memory", limits.memory);
            o.int64("memorySwap", limits.memory_swap);
            o.uint64("cpuShares", limits.cpu_shares);
            o.uint64("cpuPeriod", limits.cpu_period);
            o.int64("cpuQuota", limits.cpu_quota);
            o.text("cpusetCpus", &limits.cpuset_cpus);
            o.text("cpusetMems", &limits.cpuset_mems);
            o.done()
        };
        out.maybe(
            self.name("linuxResources", "linux_resources"),
            metadata.linux_resources.as_ref().map(resources),
        );
        out.done()
    }

    fn source_info(self, info: &pb::SourceInfo) -> Value {
        let mut out = self.object();
        out.text("filename", &info.filename);
        if !info.data.is_empty() {
            out.set("data", json!(base64(&info.data)));
        }
        out.maybe(
            "definition",
            info.definition.as_ref().map(|d| graph(self, d)),
        );
        out.text("language", &info.language);
        out.done()
    }

    fn source(self, source: &pb::Source) -> Value {
        let mut out = self.object();
        out.entries("locations", &source.locations, |places| {
            let mut o = self.object();
            o.list("locations", &places.locations, location);
            o.done()
        });
        out.list("infos", &source.infos, |info| self.source_info(info));
        out.done()
    }
}
