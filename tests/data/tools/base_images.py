#!/usr/bin/env python3
"""Make small, deterministic base images as one OCI layout, from Debian's busybox-static.

usage: base_images.py OUT_DIR [--push HOST:PORT [--plain-http]]

Tests must run without a network, so they and the expected results under ../oracle use these
stand-ins. Needs /bin/busybox from the package busybox-static; pushing needs skopeo.
Every byte of the images is fixed by this script and by the busybox binary: mtimes are 2020-01-01T00:00:00Z.

  library/busybox:latest    one layer: busybox, applet links, /etc/{passwd,group,hosts...}, /tmp, /root, /home/app
  library/alpine:latest     the same root file system with ID=alpine in /etc/os-release
  test/config:latest        busybox plus a full image config (user, env, workdir, entrypoint, cmd, labels, ...)
  test/onbuild:latest       busybox plus ONBUILD triggers
  test/layers:latest        four layers: files, a whiteout, an opaque directory, a hard link, a xattr-free special set
  test/multi:latest         an index: linux/amd64 and linux/arm64 (the arm64 one holds only /platform)
"""
import argparse, gzip, hashlib, io, json, os, subprocess, sys, tarfile

EPOCH = 1577836800
CREATED = "2020-01-01T00:00:00Z"


class Layout:
    def __init__(self, root):
        self.root, self.index = root, []
        os.makedirs(os.path.join(root, "blobs", "sha256"), exist_ok=True)

    def blob(self, data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(self.root, "blobs", "sha256", digest), "wb") as f:
            f.write(data)
        return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(data)}

    def image(self, layers, config, arch="amd64"):
        """layers: list of uncompressed tar bytes. Returns the manifest's descriptor."""
        descs, diff_ids = [], []
        for tar in layers:
            diff_ids.append("sha256:" + hashlib.sha256(tar).hexdigest())
            descs.append(self.blob(gzip.compress(tar, 6, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip"))
        doc = {"created": CREATED, "architecture": arch, "os": "linux", "config": config,
               "rootfs": {"type": "layers", "diff_ids": diff_ids},
               "history": [{"created": CREATED, "created_by": "base_images.py layer %d" % i} for i in range(len(layers))]}
        cfg = self.blob(dump(doc), "application/vnd.oci.image.config.v1+json")
        man = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": cfg, "layers": descs}
        return self.blob(dump(man), man["mediaType"])

    def name(self, desc, ref):
        self.index.append(dict(desc, annotations={"org.opencontainers.image.ref.name": ref}))

    def close(self):
        write(os.path.join(self.root, "index.json"),
              dump({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": self.index}))
        write(os.path.join(self.root, "oci-layout"), dump({"imageLayoutVersion": "1.0.0"}))


def dump(obj):
    return json.dumps(obj, indent=1, sort_keys=True).encode()


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)


class Tar:
    """An uncompressed tar with fixed times; directories first, in the order given."""

    def __init__(self):
        self.out = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.out, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, name, kind=tarfile.REGTYPE, data=b"", mode=0o644, uid=0, gid=0, link="", mtime=EPOCH):
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.uid, info.gid, info.mtime, info.linkname = kind, mode, uid, gid, mtime, link
        info.size = len(data)
        self.tar.addfile(info, io.BytesIO(data))
        return self

    def dir(self, name, mode=0o755, uid=0, gid=0):
        return self.add(name + "/", tarfile.DIRTYPE, mode=mode, uid=uid, gid=gid)

    def bytes(self):
        self.tar.close()
        return self.out.getvalue()


def rootfs(os_id):
    with open("/bin/busybox", "rb") as f:
        busybox = f.read()
    applets = sorted(set(subprocess.run(["/bin/busybox", "--list"], check=True, stdout=subprocess.PIPE, text=True).stdout.split()) - {"busybox"})
    t = Tar()
    for d in ("bin", "dev", "etc", "home", "lib", "proc", "sys", "usr", "usr/bin", "usr/sbin", "sbin", "var", "var/lib"):
        t.dir(d)
    t.dir("root", 0o700).dir("tmp", 0o1777).dir("var/tmp", 0o1777).dir("home/app", 0o755, 1000, 1000).dir("var/www", 0o755, 33, 33)
    t.add("bin/busybox", data=busybox, mode=0o755)
    for applet in applets:
        t.add("bin/" + applet, tarfile.LNKTYPE, mode=0o755, link="bin/busybox")
    t.add("etc/passwd", data=b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\napp:x:1000:1000:app:/home/app:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n")
    t.add("etc/group", data=b"root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nstaff:x:50:app\napp:x:1000:\nnogroup:x:65534:\n")
    t.add("etc/shadow", data=b"root:*:::::::\n", mode=0o600)
    t.add("etc/os-release", data=("ID=%s\nNAME=\"%s stand-in\"\n" % (os_id, os_id)).encode())
    return t.bytes()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("out")
    ap.add_argument("--push", metavar="HOST:PORT")
    ap.add_argument("--plain-http", action="store_true")
    args = ap.parse_args()
    if not os.path.exists("/bin/busybox"):
        sys.exit("base_images.py: /bin/busybox not found: apt-get install busybox-static")
    out = Layout(args.out)
    path = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    base, alpine = rootfs("busybox"), rootfs("alpine")
    out.name(out.image([base], {"Env": path, "Cmd": ["sh"]}), "library/busybox:latest")
    out.name(out.image([alpine], {"Env": path, "Cmd": ["/bin/sh"]}), "library/alpine:latest")
    out.name(out.image([base], {
        "User": "app", "Env": path + ["BASE=from-base", "LANG=C.UTF-8"], "WorkingDir": "/home/app", "Entrypoint": ["/bin/busybox"],
        "Cmd": ["sh", "-c", "echo base"], "Labels": {"base.label": "one", "both": "base"}, "Volumes": {"/data": {}},
        "ExposedPorts": {"8080/tcp": {}}, "StopSignal": "SIGINT",
        "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5000000000}, "Shell": ["/bin/sh", "-ec"]}), "test/config:latest")
    out.name(out.image([base], {"Env": path, "Cmd": ["sh"], "OnBuild": [
        "COPY onbuild.txt /from-onbuild.txt", "RUN echo onbuild > /ran-onbuild.txt", "ENV ONBUILT=yes"]}), "test/onbuild:latest")
    two = Tar().dir("a").add("a/one", data=b"1\n").add("a/two", data=b"2\n").dir("b").dir("b/sub").add("b/sub/x", data=b"x\n").add("b/y", data=b"y\n").bytes()
    three = Tar().dir("a").add("a/.wh.one").add("a/three", data=b"3\n").add("a/hard", tarfile.LNKTYPE, link="a/three").add("sym", tarfile.SYMTYPE, mode=0o777, link="a/three").bytes()
    four = Tar().dir("b", 0o750, 1, 1).add("b/.wh..wh..opq").add("b/new", data=b"new\n", mode=0o640, uid=1000, gid=1000).bytes()
    out.name(out.image([base, two, three, four], {"Env": path, "Cmd": ["sh"]}), "test/layers:latest")
    plat = lambda arch: Tar().add("platform", data=("linux/%s\n" % arch).encode()).bytes()
    manifests = []
    for arch, layers in (("amd64", [base, plat("amd64")]), ("arm64", [plat("arm64")])):
        desc = out.image(layers, {"Env": path, "Cmd": ["sh"]}, arch)
        manifests.append(dict(desc, platform={"os": "linux", "architecture": arch}))
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}
    out.name(out.blob(dump(index), index["mediaType"]), "test/multi:latest")
    out.close()
    if args.push:
        for entry in out.index:
            ref = entry["annotations"]["org.opencontainers.image.ref.name"]
            subprocess.run(["skopeo", "copy", "--all", "--quiet", "--insecure-policy", "--dest-tls-verify=" + ("false" if args.plain_http else "true"),
                            "oci:%s:%s" % (args.out, ref), "docker://%s/%s" % (args.push, ref)], check=True)
    for entry in out.index:
        print(entry["digest"], entry["annotations"]["org.opencontainers.image.ref.name"])


if __name__ == "__main__":
    main()
