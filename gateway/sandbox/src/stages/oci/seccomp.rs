//! The system call filter in the form of the OCI runtime specification: the
//! same rules, by name.

use serde_json::{Value, json};

use crate::seccomp::{Policy, Rule, rules_by_name};

/// The `seccomp` object.
pub(super) fn render(policy: Policy) -> Value {
    let mut allowed = Vec::new();
    let mut calls = Vec::new();
    let one = |name: &str, action: &str, args: Value| json!({"names": [name], "action": action, "args": args});
    for (name, rule) in rules_by_name(policy) {
        match rule {
            Rule::Allow => allowed.push(name),
            // The default action.
            Rule::Deny => {}
            Rule::Missing => calls.push(json!({
                "names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS,
            })),
            Rule::NoBits(bits) => calls.push(one(
                name,
                "SCMP_ACT_ALLOW",
                json!([{"index": 0, "value": bits, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]),
            )),
            Rule::OneOf(values) => calls.extend(values.iter().map(|value| {
                let args = json!([{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]);
                one(name, "SCMP_ACT_ALLOW", args)
            })),
            Rule::NoneOf(values) => calls.extend(others(values).into_iter().map(|(op, value)| {
                let args = json!([{"index": 0, "value": value, "op": op}]);
                one(name, "SCMP_ACT_ALLOW", args)
            })),
        }
    }
    calls.push(json!({"names": allowed, "action": "SCMP_ACT_ALLOW"}));
    let architectures = if cfg!(target_arch = "aarch64") {
        json!(["SCMP_ARCH_AARCH64"])
    } else {
        json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"])
    };
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": architectures,
        "syscalls": calls,
    })
}

/// Everything but `values`, which are ascending and close to each other, as
/// conditions of which one must hold: runtimes take a second condition for the
/// same argument as an alternative, so a stretch with two ends is given value
/// by value.
fn others(values: &[u32]) -> Vec<(&'static str, u32)> {
    let (Some(first), Some(last)) = (values.first(), values.last()) else {
        return vec![("SCMP_CMP_GE", 0)];
    };
    let between = (*first..*last).filter(|value| !values.contains(value));
    let mut conditions = vec![("SCMP_CMP_LT", *first)];
    conditions.extend(between.map(|value| ("SCMP_CMP_EQ", value)));
    conditions.push(("SCMP_CMP_GT", *last));
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_values_but_the_forbidden_ones_meet_one_condition() {
        let (below, equal, above) = ("SCMP_CMP_LT", "SCMP_CMP_EQ", "SCMP_CMP_GT");
        assert_eq!(others(&[38, 40]), [(below, 38), (equal, 39), (above, 40)]);
        assert_eq!(others(&[5, 6]), [(below, 5), (above, 6)]);
    }

    #[test]
    fn calls_of_no_rule_are_refused_and_clone3_is_missing() {
        let filter = render(Policy::Step);
        assert_eq!(filter["defaultAction"], "SCMP_ACT_ERRNO");
        let calls = filter["syscalls"].as_array().expect("a list");
        let clone3 = calls
            .iter()
            .find(|call| call["names"] == json!(["clone3"]))
            .expect("clone3");
        assert_eq!(clone3["errnoRet"], libc::ENOSYS);
        let allowed = calls.last().expect("the allowed ones")["names"]
            .as_array()
            .expect("names");
        assert!(allowed.contains(&json!("read")) && !allowed.contains(&json!("bpf")));
    }
}
