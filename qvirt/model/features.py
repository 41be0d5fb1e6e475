"""``<features>``: what the machine and the hypervisor offer to the guest."""

from lxml import etree

from qvirt.errors import ConfigUnsupported, XmlError
from qvirt.model.memory import kib
from qvirt.xml.codecs import on_off, string, uint, ulong, words
from qvirt.xml.fields import attr, child, content, flag
from qvirt.xml.node import Node, Reader


class State(Node):
    """A feature that is on or off; being there without a word means on."""

    state: bool | None = attr(on_off)

    def check(self) -> None:
        if self.state is None:
            self.state = True


class RequiredState(Node):
    """A feature that must say on or off."""

    state: bool = attr(on_off, required=True)


class Apic(Node, tag="apic"):
    eoi: bool | None = attr(on_off)


class Spinlocks(RequiredState, tag="spinlocks"):
    retries: int | None = attr(uint)

    def check(self) -> None:
        if not self.state:
            self.retries = None
        elif self.retries is None:
            raise XmlError("Missing required attribute 'retries' in element 'spinlocks'")
        elif self.retries < 0xFFF:
            raise XmlError(f"HyperV spinlock retry count must be at least {0xFFF}, not {self.retries}")


class Stimer(RequiredState, tag="stimer"):
    direct: RequiredState | None = child(RequiredState, "direct")

    def check(self) -> None:
        if self.direct is not None and not self.direct.state:
            self.direct = None


class HypervVendorId(RequiredState, tag="vendor_id"):
    value: str | None = attr(string)

    def check(self) -> None:
        if not self.state:
            self.value = None
        elif self.value is None:
            raise XmlError("missing 'value' attribute for HyperV feature 'vendor_id'")
        elif len(self.value) > 12:
            raise XmlError("HyperV vendor_id value must not be more than 12 characters.")
        elif "," in self.value:
            raise XmlError("HyperV vendor_id value is invalid")


class Strict(Node):
    """Base: a child that nobody knows is an error, under libvirt's sentence for this element."""

    unknown_message = "unexpected feature '{}'"

    def _read(self, el: etree._Element, reader: Reader) -> None:
        for kid in el:
            if kid.tag.__class__ is str and kid.tag not in self._kids:
                raise ConfigUnsupported(f"{self.unknown_message.format(kid.tag)} (line {kid.sourceline})")
        super()._read(el, reader)


class Opened(Strict):
    """Base: libvirt writes both tags of these even when nothing is between them."""

    def write(self, out: list[str], indent: str = "", tag: str | None = None, force: bool = True) -> None:
        mark = len(out)
        super().write(out, indent, tag, force)
        if len(out) == mark + 1:
            out[mark] = f"{out[mark][:-3]}>\n{indent}</{tag or self.tag}>\n"


class Hyperv(Opened, tag="hyperv"):
    """Microsoft Hyper-V's paravirtual interfaces."""

    unknown_message = "unsupported HyperV Enlightenment feature: {}"

    mode: str | None = attr(words("custom", "passthrough"))
    relaxed: RequiredState | None = child(RequiredState, "relaxed")
    vapic: RequiredState | None = child(RequiredState, "vapic")
    spinlocks: Spinlocks | None = child(Spinlocks)
    vpindex: RequiredState | None = child(RequiredState, "vpindex")
    runtime: RequiredState | None = child(RequiredState, "runtime")
    synic: RequiredState | None = child(RequiredState, "synic")
    stimer: Stimer | None = child(Stimer)
    reset: RequiredState | None = child(RequiredState, "reset")
    vendor_id: HypervVendorId | None = child(HypervVendorId)
    frequencies: RequiredState | None = child(RequiredState, "frequencies")
    reenlightenment: RequiredState | None = child(RequiredState, "reenlightenment")
    tlbflush: RequiredState | None = child(RequiredState, "tlbflush")
    ipi: RequiredState | None = child(RequiredState, "ipi")
    evmcs: RequiredState | None = child(RequiredState, "evmcs")
    avic: RequiredState | None = child(RequiredState, "avic")

    def check(self) -> None:
        self.mode = self.mode or "custom"


class DirtyRing(RequiredState, tag="dirty-ring"):
    size: int | None = attr(uint)

    def check(self) -> None:
        if not self.state:
            self.size = None
        elif self.size is None:
            raise XmlError("Missing required attribute 'size' in element 'dirty-ring'")
        elif self.size & (self.size - 1) or not 1024 <= self.size <= 65536:
            raise XmlError("dirty ring must be power of 2 and ranges [1024, 65536]")


class Kvm(Opened, tag="kvm"):
    """How KVM shows itself to the guest."""

    unknown_message = "unsupported KVM feature: {}"

    hidden: RequiredState | None = child(RequiredState, "hidden")
    hint_dedicated: RequiredState | None = child(RequiredState, "hint-dedicated")
    poll_control: RequiredState | None = child(RequiredState, "poll-control")
    pv_ipi: RequiredState | None = child(RequiredState, "pv-ipi")
    dirty_ring: DirtyRing | None = child(DirtyRing)


class XenPassthrough(RequiredState, tag="passthrough"):
    mode: str | None = attr(words("sync_pt", "share_pt"))


class Xen(Opened, tag="xen"):
    unknown_message = "unsupported Xen feature: {}"

    e820_host: RequiredState | None = child(RequiredState, "e820_host")
    passthrough: XenPassthrough | None = child(XenPassthrough)


CAPABILITY_NAMES = (
    "audit_control", "audit_write", "block_suspend", "chown", "dac_override", "dac_read_search", "fowner",
    "fsetid", "ipc_lock", "ipc_owner", "kill", "lease", "linux_immutable", "mac_admin", "mac_override",
    "mknod", "net_admin", "net_bind_service", "net_broadcast", "net_raw", "setgid", "setfcap", "setpcap",
    "setuid", "sys_admin", "sys_boot", "sys_chroot", "sys_module", "sys_nice", "sys_pacct", "sys_ptrace",
    "sys_rawio", "sys_resource", "sys_time", "sys_tty_config", "syslog", "wake_alarm",
)  # fmt: skip


class Capabilities(Node, tag="capabilities"):
    """Capabilities of a container's processes; kept, of no meaning to QEMU."""

    policy: str | None = attr(words("default", "allow", "deny"))
    states: dict[str, bool]

    def _read(self, el: etree._Element, reader: Reader) -> None:
        super()._read(el, Reader())
        self.policy = self.policy or "default"
        found = {}
        for kid in el:
            if kid.tag.__class__ is str:
                if kid.tag not in CAPABILITY_NAMES:
                    raise ConfigUnsupported(f"unexpected capability feature '{kid.tag}'")
                found[str(kid.tag)] = kid.get("state", "on") == "on"
        self.states = found

    def write_body(self, out: list[str], indent: str) -> None:
        for name in CAPABILITY_NAMES:
            if name in self.states:
                out.append(f"{indent}<{name} state='{'on' if self.states[name] else 'off'}'/>\n")


class Gic(Node, tag="gic"):
    version: str | None = attr(words("host", "2", "3"))


class ScaledSize(Node):
    """A size in KiB once read; without a unit the number is ``default_unit``."""

    default_unit = 1024
    unit: str | None = attr(string)
    value: int = content(ulong, required=True)

    def check(self) -> None:
        self.value = kib(self.value, self.unit, self.default_unit)
        self.unit = "KiB"


class Tseg(Node, tag="tseg"):
    """Size of the SMM memory at the top; bytes once read, shown in the largest whole unit."""

    unit: str | None = attr(string)
    value: int = content(ulong, required=True)

    def check(self) -> None:
        # libvirt: MiB when no unit is given
        size = kib(self.value * 1024, self.unit, 1 << 20)
        self.value, self.unit = size, "B"
        for unit, factor in (("EiB", 1 << 60), ("PiB", 1 << 50), ("TiB", 1 << 40), ("GiB", 1 << 30),
                             ("MiB", 1 << 20), ("KiB", 1 << 10)):  # fmt: skip
            if size and size % factor == 0:
                self.value, self.unit = size // factor, unit
                break

    @property
    def size(self) -> int:
        """The size in bytes."""
        return kib(self.value * 1024, self.unit, 1)


class Smm(State, tag="smm"):
    tseg: Tseg | None = child(Tseg)

    def check(self) -> None:
        super().check()
        if not self.state:
            self.tseg = None


class Ioapic(Node, tag="ioapic"):
    driver: str | None = attr(words("qemu", "kvm"))


class Hpt(Node, tag="hpt"):
    resizing: str | None = attr(words("enabled", "disabled", "required"))
    maxpagesize: ScaledSize | None = child(ScaledSize, "maxpagesize")


class Msrs(Node, tag="msrs"):
    unknown: str = attr(words("ignore", "fault"), required=True)


class Cfpc(Node, tag="cfpc"):
    value: str | None = attr(words("broken", "workaround", "fixed"))


class Sbbc(Node, tag="sbbc"):
    value: str | None = attr(words("broken", "workaround", "fixed"))


class Ibs(Node, tag="ibs"):
    value: str | None = attr(words("broken", "workaround", "fixed-ibs", "fixed-ccd", "fixed-na"))


class Tcg(Node, tag="tcg"):
    tb_cache: ScaledSize | None = child(ScaledSize, "tb-cache")


class Features(Strict, tag="features"):
    """The features of a domain, in libvirt's order."""

    acpi: bool = flag()
    apic: Apic | None = child(Apic)
    pae: bool = flag()
    hap: State | None = child(State, "hap")
    viridian: bool = flag()
    privnet: bool = flag()
    hyperv: Hyperv | None = child(Hyperv)
    kvm: Kvm | None = child(Kvm)
    pvspinlock: State | None = child(State, "pvspinlock")
    capabilities: Capabilities | None = child(Capabilities)
    pmu: State | None = child(State, "pmu")
    vmport: State | None = child(State, "vmport")
    gic: Gic | None = child(Gic)
    smm: Smm | None = child(Smm)
    ioapic: Ioapic | None = child(Ioapic)
    hpt: Hpt | None = child(Hpt)
    vmcoreinfo: State | None = child(State, "vmcoreinfo")
    htm: RequiredState | None = child(RequiredState, "htm")
    nested_hv: RequiredState | None = child(RequiredState, "nested-hv")
    msrs: Msrs | None = child(Msrs)
    ccf_assist: RequiredState | None = child(RequiredState, "ccf-assist")
    xen: Xen | None = child(Xen)
    cfpc: Cfpc | None = child(Cfpc)
    sbbc: Sbbc | None = child(Sbbc)
    ibs: Ibs | None = child(Ibs)
    tcg: Tcg | None = child(Tcg)

    def check(self) -> None:
        """Drop what says nothing."""
        for name in ("ioapic", "hpt", "cfpc", "sbbc", "ibs", "tcg"):
            node: Node | None = getattr(self, name)
            if node is not None and node.is_empty():
                del self.__dict__[name]
        known = self.capabilities
        if known is not None and not known.states and known.policy == "default":
            self.capabilities = None
