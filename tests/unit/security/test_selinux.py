"""The model ``selinux``: labels of guests and of files, by a policy in a folder of the test's."""

import errno
import os
import stat
from pathlib import Path

import pytest

from qvirt.errors import ConfigUnsupported, InvalidArg, OperationFailed, OperationInvalid, SystemError_
from qvirt.host.config import QemuConfig
from qvirt.host.selinux import Kernel, read_label, write_label
from qvirt.model.devices.disk import Disk
from qvirt.model.domain import Domain, parse_domain
from qvirt.qemu.context import Dirs
from qvirt.qemu.devices.base import FileResource
from qvirt.security import marks, selinux, selinux_reasons
from qvirt.security.denials import parse as read_denial
from qvirt.security.drivers import drivers
from qvirt.security.model import Guest
from qvirt.security.private_dev import Node
from qvirt.security.selinux import Selinux
from qvirt.security.stack import Guard, Stack
from tests.support.selinux import CONTENT, DOMAIN, IMAGE, machine

FIRST = "system_u:object_r:virt_image_t:s0"


class Knowing(Kernel):
    """A kernel that answers: `forbidden` is what it keeps from guests, `invalid` what it does not know."""

    forbidden: frozenset[tuple[str, str]] = frozenset()
    invalid: tuple[str, ...] = ()
    #: the types of programs that the policy has a domain for
    domains: tuple[tuple[str, str], ...] = ()
    is_silent = False

    def entered(self, source: str, program: str) -> str:
        domain = dict(self.domains).get(selinux.type_of(program), selinux.type_of(source))
        return ":".join((*source.split(":")[:2], domain, *source.split(":")[3:]))

    def denied(self, source: str, target: str, kind: str, wanted: tuple[str, ...]) -> list[str] | None:
        if self.is_silent:
            return None
        return [one for one in wanted if (selinux.type_of(target), one) in self.forbidden]

    def is_valid(self, context: str) -> bool:
        return not context.startswith(self.invalid) if self.invalid else True


def model(root: Path, *, known: Knowing | None = None, **facts: object) -> Selinux:
    machine(root, **facts)  # type: ignore[arg-type]
    made = Selinux("here", root=root)
    if known is not None:
        made.kernel = known
    return made


def document(labels: str = "", kind: str = "kvm") -> Domain:
    return parse_domain(
        f"<domain type='{kind}'><name>a</name><os><type>hvm</type></os><devices/>{labels}</domain>"
    )


def guard(one: Selinux, labels: str = "", kind: str = "kvm", run: int = 1, **stack: bool) -> Guard:
    return Stack([one], **stack).guard(run, document(labels, kind))


def label(of: Guard) -> tuple[str | None, str | None]:
    [found] = of.guest.seclabels
    return found.label, found.imagelabel


def pair(of: Guard) -> str:
    return (label(of)[0] or "").rpartition("s0:")[2]


# --------------------------------------------------------------------------- guests


@pytest.fixture
def passt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A program with a label that the policy has a domain for."""
    path = str(tmp_path / "passt")
    known = {path: "system_u:object_r:passt_exec_t:s0"}
    monkeypatch.setattr(selinux, "read_label", lambda path: known.get(path, "system_u:object_r:bin_t:s0"))
    return path


def test_a_helper_is_in_the_domain_of_its_program_with_the_guests_pair(tmp_path: Path, passt: str) -> None:
    known = Knowing(tmp_path)
    known.domains = (("passt_exec_t", "passt_t"),)
    own = guard(model(tmp_path, known=known))
    assert own.helper_words("net0-passt", passt) == [
        f"--selinux-label=system_u:system_r:passt_t:s0:{pair(own)}"
    ]
    # the policy has no domain for it, and the guest's own may be entered by it, or may not
    assert own.helper_words("swtpm", "/usr/bin/swtpm") == [
        f"--selinux-label=system_u:system_r:svirt_t:s0:{pair(own)}"
    ]
    known.forbidden = frozenset({("bin_t", "entrypoint")})
    assert own.helper_words("swtpm", "/usr/bin/swtpm") == []
    known.invalid = (f"system_u:system_r:passt_t:s0:{pair(own)}",)
    assert own.helper_words("net0-passt", passt) == [
        "--selinux-label=system_u:system_r:passt_t:s0-s0:c0.c1023"
    ]


@pytest.mark.parametrize(("target", "what"), [("passt_t", "transition"), ("passt_exec_t", "entrypoint")])
def test_a_helper_stays_where_it_could_not_be_executed(
    tmp_path: Path, passt: str, target: str, what: str
) -> None:
    known = Knowing(tmp_path)
    known.domains = (("passt_exec_t", "passt_t"),)
    own = guard(model(tmp_path, known=known))
    known.forbidden = frozenset({(target, what)})
    assert own.helper_words("net0-passt", passt) == []
    known.forbidden = frozenset()
    known.is_silent = True
    assert own.helper_words("net0-passt", passt) == []
    known.is_silent = False
    none = guard(own._models[0], "<seclabel type='none' model='selinux'/>")  # type: ignore[arg-type]
    assert none.helper_words("net0-passt", passt) == []
    assert own.helper_words("net0-passt", passt) != []


def test_a_dynamic_label_has_a_pair_of_its_own(tmp_path: Path) -> None:
    one = model(tmp_path)
    guards = [guard(one, run=run) for run in range(20)]
    assert len({pair(each) for each in guards}) == 20
    first = guards[0]
    assert label(first) == (f"{DOMAIN}:{pair(first)}", f"{IMAGE}:{pair(first)}")
    assert first.words() == [f"--selinux-label={DOMAIN}:{pair(first)}"]
    assert not first.takes_no_new_privs
    [made] = first.guest.seclabels
    assert (made.type, made.model, made.relabel) == ("dynamic", "selinux", True)


def test_a_pair_is_free_again_after_the_end_and_after_a_label_that_was_refused(tmp_path: Path) -> None:
    one = model(tmp_path, own="system_u:system_r:virtd_t:s0-s0:c0.c1")
    first = guard(one)
    assert pair(first) == "c0,c1"
    first.end([])
    again = guard(one, "<seclabel type='dynamic' model='selinux'/>")
    again.end([])
    one.kernel = Knowing(tmp_path)
    one.kernel.forbidden = frozenset({("svirt_t", "execmem")})
    with pytest.raises(OperationFailed, match="written and executed"):
        guard(one, kind="qemu")
    assert pair(guard(one)) == "c0,c1"


def test_a_later_daemon_knows_the_pairs_of_those_that_run(tmp_path: Path) -> None:
    own = "system_u:system_r:virtd_t:s0-s0:c0.c2"
    before = model(tmp_path, own=own)
    running = [guard(before, run=run) for run in (1, 2)]
    after = Selinux("here", root=tmp_path)
    for each in running:
        Stack([after]).recall(each.guest.run, document_of(each), "")
    assert pair(guard(after, run=3)) not in {pair(each) for each in running}


def document_of(of: Guard) -> Domain:
    found = document()
    found.seclabels = of.guest.seclabels
    return found


@pytest.mark.parametrize(("tcg", "kind", "type"), [(True, "qemu", "svirt_tcg_t"), (True, "kvm", "svirt_t"),
                                                   (False, "qemu", "svirt_t")])  # fmt: skip
def test_the_second_line_is_for_qemu_without_kvm(tmp_path: Path, tcg: bool, kind: str, type: str) -> None:
    one = model(tmp_path, tcg=tcg)
    assert selinux.type_of(label(guard(one, kind=kind))[0] or "") == type
    labels = dict(one.base_labels())
    assert labels["kvm"] == DOMAIN
    assert selinux.type_of(labels["qemu"]) == ("svirt_tcg_t" if tcg else "svirt_t")


def test_labels_are_of_the_daemons_user_where_the_policy_takes_that(tmp_path: Path) -> None:
    own = "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023"
    one = model(tmp_path, own=own)
    made, image = label(guard(one))
    assert (made or "").startswith("unconfined_u:unconfined_r:svirt_t:s0:c")
    assert (image or "").startswith("unconfined_u:object_r:svirt_image_t:s0:c")
    one.kernel = Knowing(tmp_path)
    one.kernel.invalid = ("unconfined_u:unconfined_r:svirt_t",)
    assert (label(guard(one))[0] or "").startswith(f"{DOMAIN}:c")


def test_a_static_label_is_used_as_it_is(tmp_path: Path) -> None:
    text = "system_u:system_r:svirt_custom_t:s0:c392,c662"
    xml = "<seclabel type='static' model='selinux' relabel='{}'><label>{}</label></seclabel>"
    one = model(tmp_path)
    assert label(guard(one, xml.format("yes", text))) == (text, f"{IMAGE}:c392,c662")
    fixed = guard(one, xml.format("no", text))
    assert label(fixed) == (text, None)
    assert one.plan(fixed.guest, FileResource(Disk(), "/x"), "/x") is None
    with pytest.raises(InvalidArg, match=r"'nonsense' is no SELinux context.*<seclabel> in line 1"):
        guard(one, xml.format("yes", "nonsense"))
    one.kernel = Knowing(tmp_path)
    one.kernel.invalid = ("system_u:system_r:svirt_custom_t",)
    with pytest.raises(InvalidArg, match=r"is not valid in the policy 'strict' \(<seclabel> in line 1\)"):
        guard(one, xml.format("yes", text))


def test_a_base_label_gives_the_type_and_the_daemon_the_categories(tmp_path: Path) -> None:
    base = "system_u:system_r:svirt_web_t:s0"
    xml = f"<seclabel type='dynamic' model='selinux'><baselabel>{base}</baselabel></seclabel>"
    made = guard(model(tmp_path), xml)
    assert label(made)[0] == f"{base}:{pair(made)}"
    assert made.guest.seclabels[0].baselabel == base


def test_guests_that_are_not_confined(tmp_path: Path) -> None:
    one = model(tmp_path)
    free = "<seclabel type='none' model='selinux'/>"
    none = guard(one, free)
    assert none.words() == []
    assert one.plan(none.guest, FileResource(Disk(), "/x"), "/x") is None
    by_default = guard(one, confine=False)
    assert (by_default.guest.seclabels, by_default.words()) == ([], [])
    for text, confine in ((free, True), ("", False)):
        with pytest.raises(ConfigUnsupported, match="Unconfined guests are not allowed on this host"):
            guard(one, text, require=True, confine=confine)


def test_what_is_made_for_qemu_has_its_label_and_ours_has_its_categories(tmp_path: Path) -> None:
    one = model(tmp_path)
    made = guard(one)
    sockets, files = (tmp_path / "proc/thread-self/attr" / name for name in ("sockcreate", "fscreate"))
    with made.making():
        assert sockets.read_bytes() == f"{DOMAIN}:{pair(made)}\0".encode()
        assert files.read_bytes() == f"{IMAGE}:{pair(made)}\0".encode()
    assert (sockets.read_bytes()[:1], files.read_bytes()[:1]) == (b"\n", b"\n")
    files.write_bytes(b"")
    with made.making(ours=True):
        assert sockets.read_bytes() == f"system_u:system_r:virtd_t:s0:{pair(made)}\0".encode()
        assert files.read_bytes() == b""


def test_a_socket_a_helper_accepts_on_is_of_its_domain_and_reached_by_the_guest(
    tmp_path: Path, passt: str
) -> None:
    known = Knowing(tmp_path)
    known.domains = (("passt_exec_t", "passt_t"),)
    known.forbidden = frozenset({("bin_t", "entrypoint")})
    made = guard(model(tmp_path, known=known))
    sockets, files = (tmp_path / "proc/thread-self/attr" / name for name in ("sockcreate", "fscreate"))
    for program, domain in ((passt, "passt_t"), ("/usr/bin/swtpm", "virtd_t")):
        with made.making(helper=program):
            assert sockets.read_bytes() == f"system_u:system_r:{domain}:s0:{pair(made)}\0".encode()
            assert files.read_bytes() == f"{IMAGE}:{pair(made)}\0".encode()


def test_the_label_of_a_process(tmp_path: Path) -> None:
    one = model(tmp_path)
    guest = guard(one).guest
    assert one.read(guest, 42) == (f"{DOMAIN}:c1,c2", True)
    with pytest.raises(OSError, match="no context of process 43"):
        one.read(guest, 43)


def test_which_machines_have_it(tmp_path: Path) -> None:
    [driver, *_] = drivers(QemuConfig(), "here", tmp_path, Dirs(), tmp_path)
    assert driver.name == "selinux"
    assert driver.probe() == "this kernel has it not, or not in use"
    machine(tmp_path)
    assert driver.probe() is None
    assert isinstance(driver.make(), Selinux)
    (tmp_path / "etc/selinux/strict/contexts/virtual_image_context").write_text("# nothing\n")
    assert "virtual_image_context' is missing or empty" in (driver.probe() or "")


# ---------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("facts", "label"),
    [
        ({}, f"{IMAGE}:PAIR"),
        ({"writable": False}, CONTENT),
        ({"writable": False, "shared": True}, CONTENT),
        ({"shared": True}, IMAGE),
        ({"relabel": False}, None),
    ],
)
def test_the_label_of_each_kind_of_file(tmp_path: Path, facts: dict[str, bool], label: str | None) -> None:
    one = model(tmp_path)
    made = guard(one)
    wanted = label.replace("PAIR", pair(made)) if label else None
    assert one.file_label(made.guest, FileResource(Disk(), "/x", **facts)) == wanted  # type: ignore[arg-type]


def test_a_socket_is_nobody_elses_though_it_is_not_locked(tmp_path: Path) -> None:
    one = model(tmp_path)
    made = guard(one)
    assert one.file_label(made.guest, FileResource(document(), "/x", shared=True)) == f"{IMAGE}:{pair(made)}"


def test_the_documents_word_on_one_file(tmp_path: Path) -> None:
    text = (
        "<domain type='kvm'><name>a</name><os><type>hvm</type></os><devices>"
        "<disk type='file'><source file='/x'><seclabel {}</source><target dev='vda'/></disk>"
        "</devices></domain>"
    )
    given = "model='selinux' relabel='yes'><label>u:r:t:s0</label></seclabel>"
    words = {
        given: "u:r:t:s0",
        "model='selinux' relabel='no'/>": None,
        "relabel='no'/>": None,
        "model='dac' relabel='no'/>": "own",
    }
    one = model(tmp_path)
    made = guard(one)
    for word, wanted in words.items():
        [dev] = parse_domain(text.format(word)).devices.disks
        assert dev.source is not None
        found = one.file_label(made.guest, FileResource(dev, "/x", seclabels=dev.source.seclabels))
        assert found == (label(made)[1] if wanted == "own" else wanted)


def test_a_node_in_a_dev_of_its_own_has_the_guests_label(tmp_path: Path) -> None:
    one = model(tmp_path)
    made = guard(one)
    node = Node("/dev/sdx", stat.S_IFBLK, 1, (0, 0), context=b"host\0")
    assert (
        one.node(made.guest, FileResource(Disk(), "/dev/sdx"), node).context == f"{label(made)[1]}\0".encode()
    )
    assert one.node(made.guest, FileResource(Disk(), "/dev/sdx", relabel=False), node) == node


# ----------------------------------------------------------------- files that are there

labelled = pytest.mark.skipif(os.geteuid() != 0, reason="only root labels files")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.touch()
    try:
        write_label(str(path), FIRST)
        os.setxattr(path, "trusted.qvirt.probe", b"")
        os.removexattr(path, "trusted.qvirt.probe")
    except OSError as error:
        pytest.skip(f"no such attributes here: {error.strerror}")
    return path


def lend(of: Guard, path: Path, **facts: bool) -> list[object]:
    resource = FileResource(Disk(), str(path), **facts)  # type: ignore[arg-type]
    loans = of.plan(resource, str(path))
    of.give(loans, [resource])
    return list(loans)


def now(path: Path) -> str:
    return read_label(str(path))


def traces(path: Path) -> list[str]:
    return [name for name in os.listxattr(path) if name.startswith("trusted.")]


@labelled
def test_an_image_is_lent_with_libvirts_mark_and_given_back(tmp_path: Path, image: Path) -> None:
    made = guard(model(tmp_path / "m"))
    loans = lend(made, image)
    assert now(image) == label(made)[1]
    assert os.getxattr(image, "trusted.libvirt.security.selinux") == FIRST.encode()
    assert os.getxattr(image, "trusted.libvirt.security.ref_selinux") == b"1"
    assert made.end(loans) == []  # type: ignore[arg-type]
    assert (now(image), traces(image)) == (FIRST, [])


@labelled
def test_a_shared_image_has_its_first_label_when_the_last_has_ended(tmp_path: Path, image: Path) -> None:
    one = model(tmp_path / "m")
    guards = [guard(one, run=run) for run in (1, 2)]
    loans = [lend(each, image, shared=True) for each in guards]
    assert now(image) == IMAGE
    guards[0].end(loans[0])  # type: ignore[arg-type]
    assert (now(image), os.getxattr(image, "trusted.libvirt.security.ref_selinux")) == (IMAGE, b"1")
    guards[1].end(loans[1])  # type: ignore[arg-type]
    assert (now(image), traces(image)) == (FIRST, [])


@labelled
def test_an_image_of_one_guest_is_not_taken_by_another(tmp_path: Path, image: Path) -> None:
    one = model(tmp_path / "m")
    first, second = guard(one, run=1), guard(one, run=2)
    lend(first, image)
    with pytest.raises(OperationInvalid, match=r"Setting different SELinux label on .* already in use"):
        lend(second, image)
    assert now(image) == label(first)[1]


@labelled
def test_a_label_from_before_the_machine_went_down_is_no_first_label(tmp_path: Path, image: Path) -> None:
    one = model(tmp_path / "m")
    lend(guard(one), image)
    os.setxattr(image, "trusted.qvirt.security.selinux", b"earlier-boot here=1")
    os.setxattr(image, "trusted.libvirt.security.timestamp_selinux", b"1")
    after = guard(Selinux("here", root=tmp_path / "m"))
    loans = lend(after, image)
    assert now(image) == label(after)[1]
    after.end(loans)  # type: ignore[arg-type]
    assert (now(image), traces(image)) == (FIRST, [])


@labelled
@pytest.mark.parametrize(("number", "refused"), [(errno.ENOTSUP, False), (errno.EROFS, False),
                                                 (errno.EACCES, True)])  # fmt: skip
def test_a_file_that_takes_no_label_is_left_without_a_mark(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch, number: int, refused: bool
) -> None:
    made = guard(model(tmp_path / "m"))

    def write(path: str, label: str) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(selinux, "write_label", write)
    if refused:
        with pytest.raises(SystemError_, match=r"unable to set security context '.*' on '.*image'"):
            lend(made, image)
    else:
        assert made.end(lend(made, image)) == []  # type: ignore[arg-type]
    assert (now(image), traces(image)) == (FIRST, [])


@labelled
def test_a_file_that_the_daemon_makes_gets_the_label_back_that_it_was_made_with(tmp_path: Path) -> None:
    made = guard(model(tmp_path / "m"))
    path = tmp_path / "nvram"
    resource = FileResource(document(), str(path), optional=True)
    [loan] = made.plan(resource, str(path))
    assert (loan.before, loan.label) == ("", label(made)[1])
    path.touch()
    try:
        write_label(str(path), FIRST)
    except OSError as error:
        pytest.skip(f"no labels here: {error.strerror}")
    made.own(str(path), stays=True)
    assert now(path) == FIRST
    made.give([loan], [resource])
    assert now(path) == label(made)[1]
    made.end([loan])
    assert now(path) == FIRST


@labelled
def test_without_memory_the_policy_says_what_a_file_gets(tmp_path: Path, image: Path) -> None:
    machine(tmp_path / "m")
    contexts = tmp_path / "m/etc/selinux/strict/contexts/files/file_contexts.local"
    contexts.write_text(f"{tmp_path}/.*\tsystem_u:object_r:policys_t:s0\n")
    made = guard(Selinux("here", remember=False, root=tmp_path / "m"))
    made.end(lend(made, image))  # type: ignore[arg-type]
    assert (now(image), marks.read(str(image), marks.SELINUX)) == ("system_u:object_r:policys_t:s0", None)


# ------------------------------------------------------------------------------ reasons


@labelled
def test_what_the_policy_keeps_from_a_guest_is_said_before(tmp_path: Path, image: Path) -> None:
    root = machine(tmp_path / "m", booleans={"virt_use_nfs": False})
    one = model(root, known=Knowing(root))
    assert isinstance(one.kernel, Knowing)
    one.kernel.forbidden = frozenset({("nfs_t", "write"), ("virt_image_t", "read")})
    made = guard(one)
    stays = FileResource(Disk(), str(image), relabel=False)
    assert list(made.obstacles(FileResource(Disk(), str(image)), str(image))) == []
    [found] = made.obstacles(stays, str(image))
    assert found.what == (f"SELinux denies '{label(made)[0]}' to read file '{image}', labelled '{FIRST}'")
    assert "chcon -t svirt_image_t" in found.remedy
    write_label(str(image), "system_u:object_r:nfs_t:s0")
    [found] = made.obstacles(stays, str(image))
    assert found.remedy == "allow it with 'setsebool -P virt_use_nfs on'"
    (root / "sys/fs/selinux/enforce").write_text("0")
    assert list(made.obstacles(stays, str(image))) == []


def test_a_boolean_that_is_off_is_an_answer_where_the_kernel_gives_none(tmp_path: Path) -> None:
    kernel = Kernel(machine(tmp_path, booleans={"virt_use_samba": False, "virt_use_usb": True}))
    nfs, usb = ("system_u:object_r:cifs_t:s0", "file"), ("system_u:object_r:usb_device_t:s0", "chr_file")
    assert selinux_reasons.denied(kernel, DOMAIN, *nfs, ("read",)) == ["read"]
    assert selinux_reasons.denied(kernel, DOMAIN, *usb, ("read",)) == []
    assert selinux_reasons.booleans(kernel, "cifs_t", "file") == ["virt_use_samba"]
    assert selinux_reasons.booleans(kernel, "usb_device_t", "chr_file") == []
    assert selinux_reasons.booleans(kernel, "nfs_t", "file") == []  # this policy has none


def test_file_systems_without_labels_of_their_own(tmp_path: Path) -> None:
    mounts = (
        "1 0 8:1 / / rw,relatime - ext4 /dev/sda rw,seclabel\n"
        "2 1 0:9 / /mnt/a\\040b rw - nfs4 server:/ rw\n"
        "3 2 0:9 / /mnt/a\\040b/in rw - tmpfs tmpfs rw,seclabel\n"
    )
    kernel = Kernel(machine(tmp_path, mounts=mounts))
    assert selinux_reasons.takes_labels(kernel, "/var/x")
    assert not selinux_reasons.takes_labels(kernel, "/mnt/a b/x")
    assert selinux_reasons.takes_labels(kernel, "/mnt/a b/in/x")
    assert "context=" in selinux_reasons.remedy(kernel, "odd_t", "file", "/mnt/a b/x")


def test_a_guest_without_a_label_meets_no_obstacle(tmp_path: Path) -> None:
    one = model(tmp_path)
    assert list(one.obstacles(Guest(), FileResource(Disk(), "/etc/passwd"), "/etc/passwd")) == []


def test_what_the_kernel_has_refused_is_told_with_what_allows_it(tmp_path: Path) -> None:
    one = model(tmp_path, booleans={"virt_use_nfs": False})
    made = guard(one)
    record = (
        'type=1400 audit(1.2:3): avc:  denied  {{ read }} for  pid=7 comm="qemu" path="/mnt/a" dev="tmpfs" '
        "ino=3 scontext={} tcontext=system_u:object_r:{}:s0 tclass={} permissive=0"
    )
    mine = read_denial(record.format(label(made)[0], "nfs_t", "file"))
    others = read_denial(record.format(f"{DOMAIN}:c9,c1000", "nfs_t", "file"))
    noise = read_denial(record.format(label(made)[0], "virtd_t", "dir"))
    assert mine is not None
    assert others is not None
    assert noise is not None
    assert [one.is_about(made.guest, each) for each in (mine, others, noise)] == [True, False, False]
    assert one.remedy(made.guest, mine) == "allow it with 'setsebool -P virt_use_nfs on'"


def test_where_no_record_is_to_be_had_the_label_is_suspected(tmp_path: Path) -> None:
    mounts = "1 0 0:9 / / rw - nfs4 server:/ rw\n"
    one = model(tmp_path, booleans={"virt_use_nfs": False, "virt_use_execmem": False}, mounts=mounts)
    made = guard(one, kind="qemu")
    path = tmp_path / "image"
    path.touch()
    [found] = made.suspicions(f"Could not open '{path}': Permission denied")
    assert found.endswith("allow it with 'setsebool -P virt_use_nfs on'") or "labelled" in found
    words = (
        "QEMU exited with status 1 and printed nothing",
        "-accel tcg: mprotect failed: Permission denied",
    )
    for said in words:
        [found] = made.suspicions(said)
        assert "setsebool -P virt_use_execmem on" in found
    assert made.suspicions("Could not open '/x': No such file or directory") == []
    assert guard(one, run=2).suspicions("QEMU exited with status 1 and printed nothing") == []


def test_what_a_helper_works_on_is_the_guests_while_it_runs(tmp_path: Path, image: Path) -> None:
    state = tmp_path / "swtpm/tpm2"
    state.mkdir(parents=True)
    (state / "link").symlink_to(image)
    (state / "permall").touch()
    write_label(str(state.parent), "system_u:object_r:virt_var_lib_t:s0")
    made = guard(model(tmp_path))

    def found() -> set[str]:
        paths = (state, state / "permall", state / "link")
        return {os.getxattr(path, "security.selinux", follow_symlinks=False).decode() for path in paths}

    made.fence(str(state))
    assert found() == {f"{IMAGE}:{pair(made)}\0"}
    made.unfence(str(state))
    assert found() == {"system_u:object_r:virt_var_lib_t:s0\0"}
    assert read_label(str(image)) == FIRST
