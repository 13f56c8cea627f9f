package docker

# What BUILDX_DEFAULT_POLICY=1 asks for: releases of these images must be signed by who builds them.
# Nobody here can verify those signatures, so none of these is taken by its tag: a digest says what it is.
# Older releases were never signed, and all other images are nobody's matter here.

first_signed := {
	"docker.io/docker/dockerfile": [1, 21],
	"docker.io/docker/dockerfile-upstream": [1, 21],
	"docker.io/docker/buildkit-syft-scanner": [1, 10],
	"docker.io/moby/buildkit": [0, 27],
}

# Tags that move with the releases.
moving := {
	"docker.io/docker/dockerfile": `^(latest|labs|master)$`,
	"docker.io/docker/dockerfile-upstream": `^(latest|labs|master)$`,
	"docker.io/docker/buildkit-syft-scanner": `^latest$`,
	"docker.io/moby/buildkit": `^(latest(-ubuntu)?|rootless|(master|nightly)(-rootless|-ubuntu)?|buildx-stable-\d+(-rootless|-gpu)?)$`,
}

# Tags that are releases.
release := {
	"docker.io/docker/dockerfile": `^(\d+)(?:\.(\d+)(?:\.\d+)?)?(?:-labs)?$`,
	"docker.io/docker/dockerfile-upstream": `^(\d+)(?:\.(\d+)(?:\.\d+)?)?(?:-labs)?$`,
	"docker.io/docker/buildkit-syft-scanner": `^(\d+)(?:\.(\d+)(?:\.\d+)?)?(?:-labs)?$`,
	"docker.io/moby/buildkit": `^v(\d+)\.(\d+)\.\d+(?:-rc\d+)?(?:-rootless|-ubuntu)?$`,
}

is_signed if regex.match(moving[input.image.fullRepo], input.image.tag)

is_signed if {
	version[0] > first_signed[input.image.fullRepo][0]
}

is_signed if {
	version[0] == first_signed[input.image.fullRepo][0]
	minor >= first_signed[input.image.fullRepo][1]
}

version := [to_number(found[1])] if {
	some found in regex.find_all_string_submatch_n(release[input.image.fullRepo], input.image.tag, 1)
}

# A release without one is the newest of its line.
minor := to_number(found[2]) if {
	some found in regex.find_all_string_submatch_n(release[input.image.fullRepo], input.image.tag, 1)
	found[2] != ""
} else := 999999

deny_msg contains msg if {
	not input.image.isCanonical
	is_signed
	msg := sprintf("image %s is not allowed by default policy: a verified docker-github-builder signature is required for its tag, and such signatures are not verified here; name it with its digest, or unset BUILDX_DEFAULT_POLICY", [input.image.ref])
}

decision := {"allow": count(deny_msg) == 0, "deny_msg": deny_msg}
