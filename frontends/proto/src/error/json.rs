//! Source locations as Go writes their structs: original field names, zero values left out,
//! numbers as numbers, bytes as base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gateway_api::SourceLocation;
use gateway_llb::pb;
use serde_json::{Map, Value, json};

/// An object that leaves out zero values.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let zero = match &value {
            Value::Null => true,
            Value::Bool(set) => !set,
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            // A message that is present but empty is not the same as an absent one.
            Value::Object(_) => false,
        };
        if !zero {
            self.0.insert(key.to_owned(), value);
        }
        self
    }

    fn map<T>(
        self,
        key: &str,
        entries: &std::collections::BTreeMap<String, T>,
        value: impl Fn(&T) -> Value,
    ) -> Self {
        if entries.is_empty() {
            return self;
        }
        let map: Map<String, Value> = entries
            .iter()
            .map(|(name, entry)| (name.clone(), value(entry)))
            .collect();
        self.set(key, Value::Object(map))
    }

    fn done(self) -> Value {
        Value::Object(self.0)
    }
}

pub fn location(location: &SourceLocation) -> Value {
    Object::default()
        .set("info", source_info(&location.info))
        .set("ranges", list(&location.ranges, range))
        .done()
}

fn list<T>(items: &[T], value: impl Fn(&T) -> Value) -> Value {
    Value::Array(items.iter().map(value).collect())
}

fn source_info(info: &pb::SourceInfo) -> Value {
    Object::default()
        .set("filename", info.filename.as_str())
        .set("data", STANDARD.encode(&info.data))
        .set("definition", info.definition.as_ref().map(definition))
        .set("language", info.language.as_str())
        .done()
}

fn range(range: &pb::Range) -> Value {
    let position = |position: &pb::Position| {
        Object::default()
            .set("line", position.line)
            .set("character", position.character)
            .done()
    };
    Object::default()
        .set("start", range.start.as_ref().map(position))
        .set("end", range.end.as_ref().map(position))
        .done()
}

fn definition(definition: &pb::Definition) -> Value {
    Object::default()
        .set(
            "def",
            list(&definition.def, |op| json!(STANDARD.encode(op))),
        )
        .map("metadata", &definition.metadata, metadata)
        .set("Source", definition.source.as_ref().map(source))
        .done()
}

fn metadata(metadata: &pb::OpMetadata) -> Value {
    let export_cache = metadata
        .export_cache
        .as_ref()
        .map(|export| Object::default().set("Value", export.value).done());
    let group = metadata.progress_group.as_ref().map(|group| {
        Object::default()
            .set("id", group.id.as_str())
            .set("name", group.name.as_str())
            .set("weak", group.weak)
            .done()
    });
    let resources = metadata.linux_resources.as_ref().map(|resources| {
        Object::default()
            .set("memory", resources.memory)
            .set("memorySwap", resources.memory_swap)
            .set("cpuShares", resources.cpu_shares)
            .set("cpuPeriod", resources.cpu_period)
            .set("cpuQuota", resources.cpu_quota)
            .set("cpusetCpus", resources.cpuset_cpus.as_str())
            .set("cpusetMems", resources.cpuset_mems.as_str())
            .done()
    });
    Object::default()
        .set("ignore_cache", metadata.ignore_cache)
        .map("description", &metadata.description, |text| json!(text))
        .set("export_cache", export_cache)
        .map("caps", &metadata.caps, |set| json!(set))
        .set("progress_group", group)
        .set("linux_resources", resources)
        .done()
}

fn source(source: &pb::Source) -> Value {
    Object::default()
        .map("locations", &source.locations, |locations| {
            let one = |location: &pb::Location| {
                Object::default()
                    .set("sourceIndex", location.source_index)
                    .set("ranges", list(&location.ranges, range))
                    .done()
            };
            Object::default()
                .set("locations", list(&locations.locations, one))
                .done()
        })
        .set("infos", list(&source.infos, source_info))
        .done()
}

// Reading. `None` anywhere means: not of this form, keep the original. Absent and null are zero.

/// A field by its name in any case, as Go reads it: frontends of 2022 write `Line`, newer ones
/// `line`. Null is absent.
pub fn find<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object
        .get(key)
        .or_else(|| {
            let mut entries = object.iter();
            let found = entries.find(|(name, _)| name.eq_ignore_ascii_case(key));
            found.map(|(_, value)| value)
        })
        .filter(|value| !value.is_null())
}

pub fn strings(value: &Value) -> Option<Vec<String>> {
    items(value, |item| Some(item.as_str()?.to_owned()))
}

pub fn read_location(value: &Value) -> Option<SourceLocation> {
    let object = Reader::of(value)?;
    Some(SourceLocation {
        info: object
            .message("info", read_source_info)?
            .unwrap_or_default(),
        ranges: object.list("ranges", read_range)?,
    })
}

struct Reader<'a>(&'a Map<String, Value>);

impl<'a> Reader<'a> {
    fn of(value: &'a Value) -> Option<Self> {
        value.as_object().map(Reader)
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        find(self.0, key)
    }

    fn text(&self, key: &str) -> Option<String> {
        match self.get(key) {
            None => Some(String::new()),
            Some(value) => Some(value.as_str()?.to_owned()),
        }
    }

    fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        STANDARD.decode(self.text(key)?).ok()
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.get(key).map_or(Some(false), Value::as_bool)
    }

    fn number<T: TryFrom<i64>>(&self, key: &str) -> Option<T> {
        let number = self.get(key).map_or(Some(0), Value::as_i64)?;
        T::try_from(number).ok()
    }

    fn list<T>(&self, key: &str, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
        self.get(key)
            .map_or(Some(Vec::new()), |value| items(value, read))
    }

    fn message<T>(&self, key: &str, read: impl Fn(&'a Value) -> Option<T>) -> Option<Option<T>> {
        match self.get(key) {
            None => Some(None),
            Some(value) => read(value).map(Some),
        }
    }

    fn map<T>(
        &self,
        key: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Option<std::collections::BTreeMap<String, T>> {
        let Some(value) = self.get(key) else {
            return Some(Default::default());
        };
        let entry = |(name, value): (&String, &Value)| Some((name.clone(), read(value)?));
        value.as_object()?.iter().map(entry).collect()
    }
}

fn items<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    value.as_array()?.iter().map(read).collect()
}

fn read_source_info(value: &Value) -> Option<pb::SourceInfo> {
    let object = Reader::of(value)?;
    Some(pb::SourceInfo {
        filename: object.text("filename")?,
        data: object.bytes("data")?,
        definition: object.message("definition", read_definition)?,
        language: object.text("language")?,
    })
}

fn read_range(value: &Value) -> Option<pb::Range> {
    let position = |value: &Value| {
        let object = Reader::of(value)?;
        Some(pb::Position {
            line: object.number("line")?,
            character: object.number("character")?,
        })
    };
    let object = Reader::of(value)?;
    Some(pb::Range {
        start: object.message("start", position)?,
        end: object.message("end", position)?,
    })
}

fn read_definition(value: &Value) -> Option<pb::Definition> {
    let object = Reader::of(value)?;
    Some(pb::Definition {
        def: object.list("def", |op| STANDARD.decode(op.as_str()?).ok())?,
        metadata: object.map("metadata", read_metadata)?,
        source: object.message("Source", read_source)?,
    })
}

fn read_metadata(value: &Value) -> Option<pb::OpMetadata> {
    let object = Reader::of(value)?;
    let export_cache = |value: &Value| {
        let value = Reader::of(value)?.flag("Value")?;
        Some(pb::ExportCache { value })
    };
    let group = |value: &Value| {
        let object = Reader::of(value)?;
        Some(pb::ProgressGroup {
            id: object.text("id")?,
            name: object.text("name")?,
            weak: object.flag("weak")?,
        })
    };
    let resources = |value: &Value| {
        let object = Reader::of(value)?;
        Some(pb::LinuxResources {
            memory: object.number("memory")?,
            memory_swap: object.number("memorySwap")?,
            cpu_shares: object.number("cpuShares")?,
            cpu_period: object.number("cpuPeriod")?,
            cpu_quota: object.number("cpuQuota")?,
            cpuset_cpus: object.text("cpusetCpus")?,
            cpuset_mems: object.text("cpusetMems")?,
        })
    };
    Some(pb::OpMetadata {
        ignore_cache: object.flag("ignore_cache")?,
        description: object.map("description", |text| Some(text.as_str()?.to_owned()))?,
        export_cache: object.message("export_cache", export_cache)?,
        caps: object.map("caps", Value::as_bool)?,
        progress_group: object.message("progress_group", group)?,
        linux_resources: object.message("linux_resources", resources)?,
    })
}

fn read_source(value: &Value) -> Option<pb::Source> {
    let location = |value: &Value| {
        let object = Reader::of(value)?;
        Some(pb::Location {
            source_index: object.number("sourceIndex")?,
            ranges: object.list("ranges", read_range)?,
        })
    };
    let locations = |value: &Value| {
        let locations = Reader::of(value)?.list("locations", location)?;
        Some(pb::Locations { locations })
    };
    let object = Reader::of(value)?;
    Some(pb::Source {
        locations: object.map("locations", locations)?,
        infos: object.list("infos", read_source_info)?,
    })
}
