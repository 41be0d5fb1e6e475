"""Which rules a guest's devices get, in whose spelling, and how a profile changes."""

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from qvirt.errors import ConfigUnsupported, InternalError, InvalidArg, OperationTimeout, SystemError_
from qvirt.host import images
from qvirt.model.devices.hostdev import Hostdev
from qvirt.model.domain import Domain
from qvirt.model.seclabel import SecLabel
from qvirt.qemu.context import Dirs
from qvirt.qemu.devices.base import (
    DirectoryResource,
    FileResource,
    HandedResource,
    HelperResource,
    ListenResource,
    ReachedResource,
    Resource,
)
from qvirt.qemu.names import assign_aliases
from qvirt.runtime.life import launch
from qvirt.security.apparmor import model, profiles
from qvirt.security.apparmor.model import AppArmor
from qvirt.security.apparmor.profiles import Profile
from qvirt.security.apparmor.rules import FilesText, literal, rules_for
from qvirt.security.model import Guest
from qvirt.xml.node import Node
from tests.support import confined
from tests.support.pure import completed, context

FACTS = Path(__file__).parents[2] / "data/security/apparmor-rules.json"

UUID = "5ec00000-0000-4000-8000-00000000abcd"

#: domain -> (rules libvirt has and we have not, rules we have and libvirt has not), with the reason
DIFFERENCES: dict[str, tuple[set[str], set[str], str]] = {
    "odd-name": (
        {'"@FOLDER@/a b[c]{d},e.img" rwk,'},
        {r'"@FOLDER@/a b\[c\]\{d\},e.img" rwk,'},
        "libvirt's rule is a pattern, which does not match the file",
    ),
    "channel-unix": (
        set(),
        {
            '"/var/lib/libvirt/qemu/channel/target/domain--1-sec-channel-unix/{,**}" rwk,',
        },
        "libvirt adds the folder at the start",
    ),
    "hugepages-file": (
        set(),
        {'"/var/lib/libvirt/qemu/ram/-1-sec-hugepages-file/{,**}" rwk,'},
        "libvirt adds it at the start",
    ),
    "serial-log": (set(), {'"@FOLDER@/said.log" rw,'}, "libvirt has virtlogd write it, here QEMU does"),
    "network-nbd-unix": (set(), {'"@FOLDER@/nbd.sock" rw,'}, "libvirt leaves it to the administrator"),
    "rng-egd": (set(), {'"@FOLDER@/served.sock" rw,'}, "libvirt leaves it to the administrator"),
    "smartcard-passthrough": (
        set(), {'"@FOLDER@/card.sock" rw,'}, "libvirt leaves it to the administrator"
    ),
    "redirdev-unix": (set(), {'"@FOLDER@/redir.sock" rw,'}, "libvirt leaves it to the administrator"),
    "tpm-passthrough": (
        set(),
        {'"@FOLDER@/tty" rw,'},
        "libvirt leaves it to the administrator",
    ),
    "hostdev-usb-absent": (
        set(), {'"/dev/bus/usb/001/002" rw,'}, "libvirt has a rule for a device that is there"
    ),
    "hostdev-pci": (
        {'"/dev/vfio/[0-9]*" rw,'}, set(), "the node of the function's own group, and here it has none"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.geteuid() != 0 or shutil.which("qemu-img") is None:
        pytest.skip("needs root, for device nodes, and qemu-img")
    folder = tmp_path_factory.mktemp("confined")
    confined.make(folder)
    return folder


def resources(domain: Domain) -> list[Resource]:
    images.fill_in(images.look_below(domain.devices.disks))
    ctx = context(domain)
    assign_aliases(domain, ctx)
    plan = launch.survey(domain, ctx, [])
    return plan.opened


def ours(name: str, folder: Path) -> set[str]:
    """Return the rules of a daemon without a profile."""
    text = FilesText()
    opened = resources(completed(confined.document(name, folder)))
    asked = [resource for resource in opened if not isinstance(resource, HandedResource)]
    text.grant(rules_for(asked, f"/var/lib/libvirt/qemu/domain--1-sec-{name}"))
    lines = (line.strip() for line in str(text).splitlines())
    return {line.replace(str(folder), confined.FOLDER) for line in lines if not line.startswith("#")}


#: what cannot be started, or names a file that is not there
NOT_SURVEYED = ("hugepages", "block-dev-link", "second-disk-missing")


@pytest.mark.parametrize("name", [name for name in confined.DOMAINS if name not in NOT_SURVEYED])
def test_rules_are_libvirts_but_for_what_is_better(name: str, folder: Path) -> None:
    theirs = set(json.loads(FACTS.read_text())[name])
    mine = ours(name, folder)
    missing, more, _ = DIFFERENCES.get(name, (set(), set(), ""))
    assert (theirs - mine, mine - theirs) == (missing, more)


@pytest.mark.skipif(not os.path.exists(confined.HELPER), reason="libvirt's virt-aa-helper is not installed")
def test_the_facts_are_those_of_the_libvirt_installed(folder: Path) -> None:
    facts = json.loads(FACTS.read_text())
    assert {name: confined.libvirts_rules(name, folder) for name in confined.DOMAINS} == facts


def test_what_qemu_opens_as_an_image_may_be_locked() -> None:
    def rule(origin: Node) -> str:
        return rules_for([FileResource(origin, "/dev/sg9")])["/dev/sg9"]

    assert rule(Hostdev(type="scsi")) == "rwk"
    assert rule(Hostdev(type="usb")) == "rw"


def test_what_lies_in_a_guests_folder_has_no_rule_of_its_own(tmp_path: Path) -> None:
    origin, own = SecLabel(), tmp_path / "domain-4-a"
    own.mkdir()
    (tmp_path / "link").symlink_to("/etc/shadow")
    (own / "link").symlink_to("/etc/shadow")
    wanted = [
        DirectoryResource(origin, str(tmp_path / "channel")),
        ListenResource(origin, str(tmp_path / "channel/agent"), "x"),
        ListenResource(origin, str(own / "link"), "x"),
        ReachedResource(origin, str(own / "vnc.sock")),
        ListenResource(origin, str(tmp_path / "link"), "x"),
        ReachedResource(origin, str(tmp_path / "domain-4-ab")),
    ]
    assert rules_for(wanted, str(own)) == {
        f"{tmp_path}/channel/{{,**}}": "rwk",
        f"{tmp_path}/link": "rw",
        f"{tmp_path}/domain-4-ab": "rw",
    }


# ----------------------------------------------------------------------- the file


def test_a_path_means_itself_alone() -> None:
    assert literal('/a "b"*?[c]{d}^@') == r"/a \"b\"\*\?\[c\]\{d\}\^\@"
    assert literal("/a\nb[c]") == r"/a\x0ab\[c\]"
    assert literal("/a\\") == r"/a\x5c"
    assert literal("/a\\\\") == r"/a\\\x5c"
    assert literal("/ä\u2028\udcff") == r"/ä\xe2\x80\xa8\xff"


def test_what_is_read_is_written_again() -> None:
    text = FilesText()
    text.grant({"/a.img": "rwk", r"/b \"c\"": "rk", "/d/**": "r"})
    shown = str(text)
    assert shown == (
        "# DO NOT EDIT THIS FILE DIRECTLY. IT IS MANAGED BY LIBVIRT.\n"
        '  "/a.img" rwk,\n'
        '  "/b \\"c\\"" rk,\n'
        "  # don't audit writes to readonly files\n"
        '  deny "/b \\"c\\"" w,\n'
        '  "/d/**" r,\n'
    )
    assert str(FilesText(shown)) == shown
    assert str(FilesText(shown + "  /mine r,\n")) == shown + "  /mine r,\n"
    odd = FilesText()
    odd.grant({literal("/a\u2028\n\udcff\\"): "rk"})
    assert FilesText(str(odd)).rules == odd.rules


def test_permissions_add_up_and_go_one_by_one() -> None:
    text = FilesText('  "/own/{,**}" rwk,\n')
    assert text.grant({"/a": "rk"})
    assert not text.grant({"/a": "r"})
    assert text.grant({"/a": "rw"})
    assert text.rules == {"/own/{,**}": "rwk", "/a": "rwk"}
    assert "deny" not in str(text)
    assert text.revoke({"/a": "rw"}, {"/a": "rk"})
    assert 'deny "/a" w,' in str(text)
    assert text.revoke({"/a": "rk", "/never": "r"}, {})
    assert text.rules == {"/own/{,**}": "rwk"}
    assert not text.revoke({"/a": "rk"}, {})


# ------------------------------------------------------------------------ profiles


class Kernel:
    """Stands in for the kernel and the parser: keeps the rules of what is loaded."""

    def __init__(self) -> None:
        self.loaded: dict[str, str] = {}
        self.refuses = False
        self.daemon = "unconfined"

    def load(self, profile: Profile, template: Path | None = None) -> None:
        if self.refuses:
            raise InternalError("cannot load AppArmor profile: refused")
        text = profile.rules()
        text.is_pending = False
        self.loaded[profile.name] = str(text)

    def unload(self, profile: Profile) -> None:
        self.loaded.pop(profile.name, None)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(Profile, "load", lambda self, template=None: kernel.load(self, template))
    monkeypatch.setattr(Profile, "unload", lambda self: kernel.unload(self))
    monkeypatch.setattr(profiles, "is_loaded", lambda name: name in kernel.loaded)
    monkeypatch.setattr(model, "confinement", lambda process: (kernel.daemon, ""))
    return kernel


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    folder = tmp_path / "apparmor.d/libvirt"
    folder.mkdir(parents=True)
    (folder / "TEMPLATE.qemu").write_text(
        "# mine\nprofile LIBVIRT_TEMPLATE flags=(attach_disconnected) {\n  /usr/share/mine r,\n}\n"
    )
    return folder


def guest(label: SecLabel | None = None) -> Guest:
    return Guest(4, "a", UUID, "/lib/domain-4-a", [label] if label is not None else [])


def started(apparmor: AppArmor, image: str) -> Guest:
    one = guest()
    made = apparmor.label(one, None, [])
    assert made is not None
    one.seclabels.append(made)
    apparmor.give(one, [], [FileResource(made, image)])
    return one


def test_a_profile_from_start_to_end(kernel: Kernel, templates: Path, tmp_path: Path) -> None:
    apparmor = AppArmor(templates, Dirs())
    name = f"libvirt-{UUID}"
    one = started(apparmor, str(tmp_path / "a.img"))
    assert apparmor.words(one) == [f"--apparmor-profile={name}"]
    assert (templates / name).read_text() == (
        f"# mine\nprofile {name} flags=(attach_disconnected) {{\n  /usr/share/mine r,\n"
        f"  #include <libvirt/{name}.files>\n\n}}\n"
    )
    at_start = kernel.loaded[name]
    assert '"/lib/domain-4-a/{,**}" rwk,' in at_start
    later = FileResource(one.seclabels[0], str(tmp_path / "b.img"))
    # a daemon that comes back knows nothing but the file
    again = AppArmor(templates, Dirs())
    again.give(one, [], [later])
    assert kernel.loaded[name] == at_start + f'  "{tmp_path}/b.img" rw,\n'
    assert again.take_back(one, [], [later], []) == []
    assert kernel.loaded[name] == at_start
    assert again.end(one) == []
    assert not kernel.loaded
    assert sorted(path.name for path in templates.iterdir()) == ["TEMPLATE.qemu", name]
    (templates / name).write_text("# an administrator's\n")
    started(apparmor, str(tmp_path / "a.img"))
    assert (templates / name).read_text() == "# an administrator's\n"


def test_what_the_kernel_does_not_take_is_not_kept(kernel: Kernel, templates: Path, tmp_path: Path) -> None:
    apparmor = AppArmor(templates, Dirs())
    kernel.refuses = True
    with pytest.raises(InternalError, match="refused"):
        started(apparmor, str(tmp_path / "a.img"))
    # a template that is mended serves the next start
    assert [path.name for path in templates.iterdir()] == ["TEMPLATE.qemu"]
    kernel.refuses = False
    one = started(apparmor, str(tmp_path / "a.img"))
    files = templates / f"libvirt-{UUID}.files"
    before = files.read_text()
    kernel.refuses = True
    with pytest.raises(InternalError, match="refused"):
        apparmor.give(one, [], [FileResource(one.seclabels[0], str(tmp_path / "b.img"))])
    assert files.read_text() == before
    files.unlink()
    with pytest.raises(SystemError_, match="the guest can be given nothing more"):
        apparmor.give(one, [], [FileResource(one.seclabels[0], str(tmp_path / "b.img"))])


def test_a_guest_that_ends_while_it_is_given_something_leaves_nothing(
    kernel: Kernel, templates: Path, tmp_path: Path
) -> None:
    apparmor = AppArmor(templates, Dirs())
    one = started(apparmor, str(tmp_path / "a.img"))
    files = templates / f"libvirt-{UUID}.files"
    late = FileResource(one.seclabels[0], str(tmp_path / "b.img"))
    loading, ended = threading.Event(), threading.Event()
    load = kernel.load

    def slow(profile: Profile, template: Path | None = None) -> None:
        loading.set()
        assert not ended.wait(0.2)  # whoever ends it waits
        load(profile, template)

    kernel.load = slow  # type: ignore[method-assign]
    giving = threading.Thread(target=apparmor.give, args=(one, [], [late]))
    giving.start()
    assert loading.wait(10)
    assert apparmor.end(one) == []
    ended.set()
    giving.join(10)
    assert not kernel.loaded
    assert not files.exists()
    # undoing what was given comes later still
    assert apparmor.take_back(one, [], [late], []) == []
    assert not files.exists()
    with pytest.raises(SystemError_, match="the guest can be given nothing more"):
        apparmor.give(one, [], [late])


def test_a_daemon_with_a_profile_is_let_at_the_guests_of_one_without(
    kernel: Kernel, templates: Path, tmp_path: Path
) -> None:
    name = f"libvirt-{UUID}"
    one = started(AppArmor(templates, Dirs()), str(tmp_path / "a.img"))
    before = kernel.loaded[name]
    AppArmor(templates, Dirs()).find_again(one)
    assert kernel.loaded[name] == before
    kernel.daemon = "qvirtd"
    later = AppArmor(templates, Dirs())
    later.find_again(one)
    assert kernel.loaded[name].startswith(before)
    assert kernel.loaded[name].count('  signal (receive) peer="qvirtd",\n') == 1
    after = kernel.loaded.pop(name)
    AppArmor(templates, Dirs()).find_again(one)
    assert name not in kernel.loaded  # it knows the daemon, and is not loaded again
    assert (templates / f"{name}.files").read_text() == after
    assert later.end(one) == []
    later.find_again(one)
    assert sorted(path.name for path in templates.iterdir()) == ["TEMPLATE.qemu", name]


def test_rules_that_a_daemon_died_over_are_loaded_by_the_next(
    kernel: Kernel, templates: Path, tmp_path: Path
) -> None:
    name = f"libvirt-{UUID}"
    apparmor = AppArmor(templates, Dirs())
    one = started(apparmor, str(tmp_path / "a.img"))
    files = templates / f"{name}.files"
    before, load = files.read_text(), kernel.load

    def dies(profile: Profile, template: Path | None = None) -> None:
        (tmp_path / "left").write_text(files.read_text())
        load(profile, template)

    kernel.load = dies  # type: ignore[method-assign]
    apparmor.give(one, [], [FileResource(one.seclabels[0], str(tmp_path / "b.img"))])
    kernel.load = load  # type: ignore[method-assign]
    after = files.read_text()
    files.write_text((tmp_path / "left").read_text())
    kernel.loaded[name] = before
    AppArmor(templates, Dirs()).find_again(one)
    assert files.read_text() == kernel.loaded[name] == after
    kernel.loaded.clear()
    AppArmor(templates, Dirs()).find_again(one)
    assert not kernel.loaded  # once is enough


def test_what_is_handed_over_needs_a_rule_where_the_daemon_has_a_profile(
    kernel: Kernel, templates: Path, tmp_path: Path
) -> None:
    """Of what an unconfined process has opened the kernel does not ask again."""
    name = f"libvirt-{UUID}"
    one = started(AppArmor(templates, Dirs()), str(tmp_path / "a.img"))
    before = kernel.loaded.pop(name)
    node = HandedResource(one.seclabels[0], "/dev/tap5")
    AppArmor(templates, Dirs()).give(one, [], [node])
    assert name not in kernel.loaded
    kernel.daemon = "qvirtd"
    apparmor = AppArmor(templates, Dirs())
    apparmor.give(one, [], [node])
    assert kernel.loaded[name] == before + '  "/dev/tap5" rw,\n'
    assert apparmor.take_back(one, [], [node], []) == []
    assert kernel.loaded[name] == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        ("abi <abi/3.0>,\n", "\n# } not its end\nprofile another { /x r, }\n"),
        ("# profile LIBVIRT_TEMPLATE {\n", "# {\n"),
    ],
)
@pytest.mark.parametrize(
    "head",
    [
        "profile LIBVIRT_TEMPLATE flags=(attach_disconnected) {",
        "profile LIBVIRT_TEMPLATE /usr/{,local/}bin/@{x}\n{  # mine",
        "  profile   LIBVIRT_TEMPLATE {",
    ],
)
def test_rules_are_included_at_the_end_of_the_templates_profile(
    templates: Path, head: str, before: str, after: str
) -> None:
    inside = (
        "\n  #include <abstractions/base>\n  include if exists <local/{mine}>  # } a comment\n"
        '  @{PROC}/{,**} r,\n  "/srv/a b} #/**" r,\n  /srv/\\}#x r,\n  profile sub {\n    /x r,\n  }\n'
        "  ^hat { /y r, }\n"
    )
    (templates / "TEMPLATE.qemu").write_text(f"{before}{head}{inside}}}{after}")
    profile = Profile(templates, UUID)
    assert profile.make() == templates / "TEMPLATE.qemu"
    made = profile.path.read_text()
    include = f"  #include <libvirt/{profile.name}.files>\n\n}}"
    named = head.replace("LIBVIRT_TEMPLATE", profile.name)
    assert made == f"{before}{named}{inside}{include}{after}".rstrip() + "\n"
    assert profile.make() is None


@pytest.mark.parametrize("text", ["profile mine {\n}\n", "profile LIBVIRT_TEMPLATE {\n  # }\n", ""])
def test_a_template_without_the_profile_is_refused(templates: Path, text: str) -> None:
    (templates / "TEMPLATE.qemu").write_text(text)
    with pytest.raises(InternalError, match="has no profile LIBVIRT_TEMPLATE in braces"):
        Profile(templates, UUID).make()


def test_what_the_parser_says_is_about_the_template(
    templates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser = tmp_path / "apparmor_parser"
    parser.write_text(
        "#!/bin/sh\nfor last; do :; done\n"
        'echo "AppArmor parser error for $last in profile $last at line 3: syntax error" >&2; exit 1\n'
    )
    parser.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    profile = Profile(templates, UUID)
    template = profile.make()
    with pytest.raises(InternalError) as refused:
        profile.load(template)
    assert str(refused.value).endswith(
        f"'{profile.name}', made of '{template}': AppArmor parser error for {template} in profile {template} "
        "at line 3: syntax error"
    )
    with pytest.raises(InternalError) as refused:
        profile.load()
    assert str(refused.value).endswith(
        f"in profile {profile.path} at line 3: syntax error\n"
        f"Remove '{profile.path}' to have it made of the template again."
    )
    parser.write_text("#!/bin/sh\nexec sleep 1000\n")
    monkeypatch.setattr(profiles, "DEADLINE", 0.2)
    with pytest.raises(OperationTimeout, match=r"apparmor_parser did not load '.*' within 0\.2 s"):
        profile.load()
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(SystemError_, match="cannot execute 'apparmor_parser'"):
        profile.load()


def test_what_a_machine_that_went_down_has_left_is_not_granted(
    kernel: Kernel, templates: Path, tmp_path: Path
) -> None:
    (templates / f"libvirt-{UUID}.files").write_text('  "/etc/shadow" rwk,\n')
    started(AppArmor(templates, Dirs()), str(tmp_path / "a.img"))
    assert "shadow" not in kernel.loaded[f"libvirt-{UUID}"]


def helper(name: str, **more: object) -> HelperResource:
    opens = {"/log": "w", "/state/": "rwk", "/odd [path]": "rw"}
    return HelperResource(SecLabel(), name, "/usr/bin/swtpm", opens, **more)  # type: ignore[arg-type]


def test_a_helper_has_a_profile_within_the_guests(kernel: Kernel, templates: Path, tmp_path: Path) -> None:
    apparmor = AppArmor(templates, Dirs())
    name = f"libvirt-{UUID}"
    one = started(apparmor, str(tmp_path / "a.img"))
    assert apparmor.helper_words(one, "swtpm", "/usr/bin/swtpm") == ()
    at_start = kernel.loaded[name]
    apparmor.give(one, [], [helper("swtpm")])
    with_one = kernel.loaded[name]
    assert with_one.startswith(at_start)
    inner = with_one.partition("  profile swtpm flags=(attach_disconnected) {\n")[2]
    for rule in (
        '"/log" w', '"/state/" r', '"/state/**" rwk', r'"/odd \[path\]" rw', "unix",
        f"signal (send) peer={name}//swtpm",
    ):  # fmt: skip
        assert f"    {rule},\n" in inner
    assert "x," not in inner.replace("unix,", "")
    assert str(tmp_path) not in inner
    again = AppArmor(templates, Dirs())  # of a later daemon
    assert again.helper_words(one, "swtpm", "/usr/bin/swtpm") == (f"--apparmor-profile={name}//swtpm",)
    again.give(one, [], [helper("fs0-virtiofsd", keep=("chown", "mknod"), shuts_in=True)])
    assert "    capability chown mknod,\n" in kernel.loaded[name]
    # what another device is given or loses is no business of theirs
    image = FileResource(one.seclabels[0], str(tmp_path / "b.img"))
    with_both = kernel.loaded[name]
    again.give(one, [], [image])
    assert kernel.loaded[name] != with_both
    assert again.take_back(one, [], [image], []) == []
    assert kernel.loaded[name] == with_both
    assert again.take_back(one, [], [HelperResource(SecLabel(), "fs0-virtiofsd")], []) == []
    assert kernel.loaded[name] == with_one
    assert again.take_back(one, [], [HelperResource(SecLabel(), "no-such")], []) == []
    other = guest(SecLabel(type="static", model="apparmor", label="mine"))
    assert again.helper_words(other, "swtpm", "/usr/bin/swtpm") == ()


def test_other_labels(kernel: Kernel, templates: Path) -> None:
    apparmor = AppArmor(templates, Dirs())
    static = SecLabel(type="static", model="apparmor", relabel=True, label="mine")
    with pytest.raises(InvalidArg, match="unable to set AppArmor profile 'mine': No such file or directory"):
        apparmor.label(guest(static), static, [])
    kernel.loaded["mine"] = ""
    one = guest(static)
    assert apparmor.label(one, static, []) is static
    apparmor.give(one, [], [FileResource(static, "/a")])
    assert apparmor.words(one) == ["--apparmor-profile=mine"]
    assert apparmor.end(one) == []
    assert kernel.loaded == {"mine": ""}
    none = SecLabel(type="none", model="apparmor")
    assert apparmor.words(guest(none)) == []
    based = SecLabel(type="dynamic", model="apparmor", relabel=True, baselabel="x")
    with pytest.raises(ConfigUnsupported, match="Cannot set a base label"):
        apparmor.label(guest(based), based, [])


@pytest.mark.skipif(shutil.which("apparmor_parser") is None, reason="apparmor_parser is not installed")
def test_the_parser_takes_what_is_written(templates: Path, tmp_path: Path) -> None:
    profile = Profile(templates, UUID)
    profile.make()
    text = FilesText()
    text.grant({literal('/a "b"*?[c]{d}^@\\x'): "rwk", literal("/ä"): "rk", "/lib/{,**}": "rwk"})
    text.admit(profile.name, [helper("swtpm"), helper("fs0-virtiofsd", keep=("chown",), shuts_in=True)])
    profile.write_rules(text)
    words = ["apparmor_parser", "--skip-kernel-load", "--skip-cache", "--Include", str(templates.parent)]
    words.append(str(profile.path))
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
