//! Cache key of a file op, and which parts of its inputs count.

use std::collections::{BTreeMap, BTreeSet};

use gateway_llb::{path, pb};
use pb::file_action::Action;

use super::go_json::{Object, array, base64};
use super::{Dep, OpKey, Selector, dedupe_paths, digest_of, selector_digest};

/// # Errors
/// In BuildKit's words: an owner looked up in an input beyond the last, an action of no kind.
pub fn file_key(file: &pb::FileOp, inputs: usize) -> Result<OpKey, String> {
    let mut selectors: BTreeMap<i64, Vec<Selector>> = BTreeMap::new();
    // What an action changes counts as a whole: only its own key can match.
    let mut changed = BTreeSet::new();
    let mut bodies = Vec::new();
    for action in &file.actions {
        changed.insert(action.input);
        bodies.push(match &action.action {
            Some(Action::Mkdir(mkdir)) => {
                owner_selectors(mkdir.owner.as_ref(), &mut selectors);
                mkdir_json(mkdir)
            }
            Some(Action::Mkfile(mkfile)) => {
                owner_selectors(mkfile.owner.as_ref(), &mut selectors);
                mkfile_json(mkfile)
            }
            Some(Action::Symlink(symlink)) => Object::new()
                .text("oldpath", &symlink.oldpath)
                .text("newpath", &symlink.newpath)
                .maybe("owner", symlink.owner.as_ref().map(owner_json))
                .int("timestamp", symlink.timestamp)
                .done(),
            Some(Action::Rm(rm)) => Object::new()
                .text("path", &rm.path)
                .flag("allowNotFound", rm.allow_not_found)
                .flag("allowWildcard", rm.allow_wildcard)
                .done(),
            Some(Action::Copy(copy)) => {
                owner_selectors(copy.owner.as_ref(), &mut selectors);
                let source = action.secondary_input;
                let from_input =
                    source != -1 && usize::try_from(source).map_or(true, |index| index < inputs);
                if from_input {
                    selectors
                        .entry(source)
                        .or_default()
                        .push(copy_selector(copy));
                    copy_json(copy, &base_name(&copy.src))
                } else {
                    copy_json(copy, &copy.src)
                }
            }
            None => return Err("invalid nil file action".into()),
        });
    }
    let mut json = Object::new();
    json.text_always("Type", "buildkit.file.v0")
        .raw("Actions", &array(&bodies, |body| base64(body.as_bytes())));
    if !has_common_shape(&file.actions) {
        json.list("indexes", &file.actions, |action| {
            format!(
                "[{},{},{}]",
                action.input, action.secondary_input, action.output
            )
        });
    }
    let mut deps: Vec<Dep> = (0..inputs).map(|_| Dep::default()).collect();
    for (index, list) in selectors {
        let dep = usize::try_from(index)
            .ok()
            .and_then(|at| deps.get_mut(at))
            .ok_or_else(|| {
                format!("invalid input index {index} in file op with {inputs} inputs")
            })?;
        if changed.contains(&index) {
            continue;
        }
        let mut paths: Vec<&str> = list.iter().map(|s| s.path.as_str()).collect();
        paths.sort_unstable_by(|a, b| b.cmp(a));
        dep.selector = Some(selector_digest(paths));
        dep.content = Some(dedupe(list));
    }
    Ok(OpKey {
        digest: digest_of(json.done().as_bytes()),
        deps,
    })
}

/// Go's `path.Base`.
fn base_name(src: &str) -> String {
    path::base(src).to_owned()
}

fn copy_selector(copy: &pb::FileActionCopy) -> Selector {
    Selector {
        path: copy.src.clone(),
        wildcard: copy.allow_wildcard && has_wildcards(&copy.src),
        follow_links: copy.follow_symlink,
        include: copy.include_patterns.clone(),
        exclude: copy.exclude_patterns.clone(),
        required: copy.required_paths.clone(),
    }
}

fn has_wildcards(text: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

/// An owner that is looked up in no input counts by its name alone; the step itself will fail.
fn owner_selectors(owner: Option<&pb::ChownOpt>, selectors: &mut BTreeMap<i64, Vec<Selector>>) {
    let Some(owner) = owner else { return };
    for (who, file) in [(&owner.user, "/etc/passwd"), (&owner.group, "/etc/group")] {
        let named = who.as_ref().and_then(|opt| opt.user.as_ref());
        if let Some(pb::user_opt::User::ByName(named)) = named {
            if named.input < 0 {
                return;
            }
            selectors.entry(named.input).or_default().push(Selector {
                path: file.into(),
                follow_links: true,
                ..Selector::default()
            });
        }
    }
}

/// Plain paths once each, without those below others; filtered ones as they are; by path.
fn dedupe(list: Vec<Selector>) -> Vec<Selector> {
    let (filtered, plain): (Vec<_>, Vec<_>) = list.into_iter().partition(Selector::is_filtered);
    let mut out = Vec::new();
    for follow_links in [false, true] {
        let paths = plain
            .iter()
            .filter(|s| s.follow_links == follow_links)
            .map(|s| s.path.clone())
            .collect();
        out.extend(dedupe_paths(paths).into_iter().map(|path| Selector {
            path,
            follow_links,
            ..Selector::default()
        }));
    }
    out.extend(filtered);
    out.sort_by(|a, b| a.path.cmp(&b.path));
    out
}

/// A chain on input 0 whose last link is the only output.
fn has_common_shape(actions: &[pb::FileAction]) -> bool {
    let count = actions.len();
    actions.iter().enumerate().all(|(index, action)| {
        let input = match index {
            0 => 0,
            _ => i64::try_from(count + index - 1).unwrap_or(i64::MAX),
        };
        let output = if index + 1 == count { 0 } else { -1 };
        action.input == input && matches!(action.secondary_input, -1 | 1) && action.output == output
    })
}

fn mkdir_json(mkdir: &pb::FileActionMkDir) -> String {
    Object::new()
        .text("path", &mkdir.path)
        .int("mode", mkdir.mode)
        .flag("makeParents", mkdir.make_parents)
        .maybe("owner", mkdir.owner.as_ref().map(owner_json))
        .int("timestamp", mkdir.timestamp)
        .done()
}

fn mkfile_json(mkfile: &pb::FileActionMkFile) -> String {
    Object::new()
        .text("path", &mkfile.path)
        .int("mode", mkfile.mode)
        .bytes("data", &mkfile.data)
        .maybe("owner", mkfile.owner.as_ref().map(owner_json))
        .int("timestamp", mkfile.timestamp)
        .done()
}

fn copy_json(copy: &pb::FileActionCopy, src: &str) -> String {
    Object::new()
        .text("src", src)
        .text("dest", &copy.dest)
        .maybe("owner", copy.owner.as_ref().map(owner_json))
        .int("mode", copy.mode)
        .flag("followSymlink", copy.follow_symlink)
        .flag("dirCopyContents", copy.dir_copy_contents)
        .flag(
            "attemptUnpackDockerCompatibility",
            copy.attempt_unpack_docker_compatibility,
        )
        .flag("createDestPath", copy.create_dest_path)
        .flag("allowWildcard", copy.allow_wildcard)
        .flag("allowEmptyWildcard", copy.allow_empty_wildcard)
        .int("timestamp", copy.timestamp)
        .texts("include_patterns", &copy.include_patterns)
        .texts("exclude_patterns", &copy.exclude_patterns)
        .flag(
            "alwaysReplaceExistingDestPaths",
            copy.always_replace_existing_dest_paths,
        )
        .text("modeStr", &copy.mode_str)
        .texts("required_paths", &copy.required_paths)
        .done()
}

fn owner_json(owner: &pb::ChownOpt) -> String {
    Object::new()
        .maybe("user", owner.user.as_ref().map(user_json))
        .maybe("group", owner.group.as_ref().map(user_json))
        .done()
}

fn user_json(user: &pb::UserOpt) -> String {
    let inner = match &user.user {
        Some(pb::user_opt::User::ById(id)) => Object::new().int("byId", *id).done(),
        Some(pb::user_opt::User::ByName(named)) => Object::new()
            .raw(
                "byName",
                &Object::new()
                    .text("name", &named.name)
                    .int("input", named.input)
                    .done(),
            )
            .done(),
        None => "{}".into(),
    };
    Object::new().raw("User", &inner).done()
}
