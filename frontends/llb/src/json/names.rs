//! The names of enum values by their number: one list for writing and for reading.

pub const NET_MODE: &[&str] = &["UNSET", "HOST", "NONE"];
pub const SECURITY_MODE: &[&str] = &["SANDBOX", "INSECURE"];
pub const MOUNT_TYPE: &[&str] = &["BIND", "SECRET", "SSH", "CACHE", "TMPFS"];
pub const CONTENT_CACHE: &[&str] = &["DEFAULT", "ON", "OFF"];
pub const CACHE_SHARING: &[&str] = &["SHARED", "PRIVATE", "LOCKED"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;

    #[test]
    fn each_number_has_the_name_of_its_definition() {
        fn check<T: TryFrom<i32>>(names: &[&str], name: impl Fn(T) -> &'static str) {
            for (number, expected) in (0..).zip(names) {
                let value = T::try_from(number).ok().expect("a value");
                assert_eq!(name(value), *expected);
            }
            let beyond = i32::try_from(names.len()).unwrap();
            assert!(T::try_from(beyond).is_err(), "{beyond} has a name");
        }
        check(NET_MODE, |v: pb::NetMode| v.as_str_name());
        check(SECURITY_MODE, |v: pb::SecurityMode| v.as_str_name());
        check(MOUNT_TYPE, |v: pb::MountType| v.as_str_name());
        check(CONTENT_CACHE, |v: pb::MountContentCache| v.as_str_name());
        check(CACHE_SHARING, |v: pb::CacheSharingOpt| v.as_str_name());
    }
}
