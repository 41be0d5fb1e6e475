"""The x86 CPU models and features that libvirt's XML can name, in libvirt's order.

Clients and stored domains use these names, and what a name stands for must not follow QEMU's version or
accelerator (under TCG it leaves out what TCG lacks), so QEMU cannot be asked. Each model is written as the
difference to the nearest one before it. What an emulator can run is asked from QEMU (`caps.py`).
"""

from collections.abc import Mapping
from functools import cache

from qvirt.record import Record

ANY_STEPPING = range(16)


class Signature(Record):
    """A processor's CPUID family, model and steppings."""

    family: int
    model: int
    steppings: range = ANY_STEPPING


class X86Model(Record):
    """A named model. like, plus, minus: its features, from those of an earlier model.

    removed: features it had in older QEMUs, so that its description says when they are off.
    decode_host, decode_guest: whether the name may describe a host, or what a guest sees.
    """

    name: str
    vendor: str | None = None
    signatures: tuple[Signature, ...] = ()
    decode_host: bool = True
    decode_guest: bool = True
    like: str | None = None
    plus: str = ""
    minus: str = ""
    removed: str = ""

    def has_signature(self, signature: tuple[int, int, int] | None) -> bool:
        """Tell whether a processor of this family, model and stepping is one of these."""
        return signature is not None and any(
            (s.family, s.model) == signature[:2] and signature[2] in s.steppings for s in self.signatures
        )


VENDORS: Mapping[str, str] = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD", "HygonGenuine": "Hygon"}
"""libvirt's names of the vendors, by CPUID string."""

NOT_MIGRATABLE = frozenset({"xsaves", "invtsc"})

MSR_FEATURES = frozenset(
    {
        "rdctl-no", "ibrs-all", "rsba", "skip-l1dfl-vmentry", "ssb-no", "mds-no", "pschange-mc-no",
        "tsx-ctrl", "taa-no", "split-lock-detect",
    }
)  # fmt: skip
"""Features told by a model specific register instead of CPUID."""

_FEATURE_NAMES = """
    fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 pn clflush ds acpi mmx fxsr
    sse sse2 ss ht tm ia64 pbe pni pclmuldq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid fma cx16
    xtpr pdcm pcid dca sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave osxsave avx f16c rdrand
    hypervisor arat fsgsbase tsc_adjust sgx bmi1 hle avx2 smep bmi2 erms invpcid rtm cmt mpx avx512f
    avx512dq rdseed adx smap avx512ifma pcommit clflushopt clwb intel-pt avx512pf avx512er avx512cd
    sha-ni avx512bw avx512vl avx512vbmi umip pku ospke waitpkg avx512vbmi2 gfni vaes vpclmulqdq
    avx512vnni avx512bitalg avx512-vpopcntdq la57 rdpid bus-lock-detect cldemote movdiri movdir64b sgxlc
    pks avx512-4vnniw avx512-4fmaps fsrm avx512-vp2intersect md-clear serialize tsx-ldtrk pconfig
    arch-lbr amx-bf16 avx512-fp16 amx-tile amx-int8 spec-ctrl stibp arch-capabilities core-capability
    ssbd avx-vnni avx512-bf16 xsaveopt xsavec xgetbv1 xsaves xfd mbm_total mbm_local sgx1 sgx2
    sgx-exinfo sgx-debug sgx-mode64 sgx-provisionkey sgx-tokenkey sgx-kss intel-pt-lip syscall nx mmxext
    fxsr_opt pdpe1gb rdtscp lm 3dnowext 3dnow lahf_lm cmp_legacy svm extapic cr8legacy abm sse4a
    misalignsse 3dnowprefetch osvw ibs xop skinit wdt lwp fma4 tce cvt16 nodeid_msr tbm topoext
    perfctr_core perfctr_nb invtsc clzero xsaveerptr wbnoinvd ibpb ibrs amd-stibp amd-ssbd virt-ssbd
    amd-no-ssb npt lbrv svm-lock nrip-save tsc-scale vmcb-clean flushbyasid decodeassists pause-filter
    pfthreshold avic v-vmsave-vmload vgif svme-addr-chk rdctl-no ibrs-all rsba skip-l1dfl-vmentry ssb-no
    mds-no pschange-mc-no tsx-ctrl taa-no split-lock-detect
"""

FEATURES: tuple[str, ...] = tuple(_FEATURE_NAMES.split())
"""Every feature, in the order libvirt lists them (CPUID leaf, register, bit)."""

MODELS: tuple[X86Model, ...] = (
    X86Model(
        "486",
        plus="fpu vme pse",
    ),
    X86Model(
        "pentium",
        like="486",
        plus="de tsc msr mce cx8 mmx",
    ),
    X86Model(
        "pentium2",
        like="pentium",
        plus="pae sep mtrr pge mca cmov pat pse36 fxsr",
    ),
    X86Model(
        "pentium3",
        like="pentium2",
        plus="sse",
    ),
    X86Model(
        "pentiumpro",
        like="pentium3",
        plus="apic sse2",
        minus="vme mtrr mca pse36",
    ),
    X86Model(
        "coreduo",
        vendor="Intel",
        like="pentium3",
        plus="apic clflush sse2 pni monitor nx",
        minus="pse36",
    ),
    X86Model(
        "n270",
        vendor="Intel",
        like="coreduo",
        plus="ssse3",
    ),
    X86Model(
        "core2duo",
        vendor="Intel",
        like="n270",
        plus="pse36 syscall lm",
    ),
    X86Model(
        "qemu32",
        like="pentiumpro",
        plus="pni",
    ),
    X86Model(
        "kvm32",
        like="coreduo",
        plus="pse36",
        minus="vme monitor nx",
    ),
    X86Model(
        "cpu64-rhel5",
        decode_host=False,
        decode_guest=False,
        like="core2duo",
        minus="vme monitor ssse3",
    ),
    X86Model(
        "cpu64-rhel6",
        decode_host=False,
        decode_guest=False,
        like="cpu64-rhel5",
        plus="cx16 lahf_lm",
    ),
    X86Model(
        "qemu64",
        like="cpu64-rhel5",
        plus="cx16 svm",
    ),
    X86Model(
        "kvm64",
        like="cpu64-rhel5",
        plus="cx16",
    ),
    X86Model(
        "Conroe",
        vendor="Intel",
        signatures=(
            Signature(6, 15),
            Signature(6, 22),
        ),
        like="cpu64-rhel5",
        plus="ssse3 lahf_lm",
    ),
    X86Model(
        "Penryn",
        vendor="Intel",
        signatures=(
            Signature(6, 23),
            Signature(6, 29),
        ),
        like="cpu64-rhel6",
        plus="ssse3 sse4.1",
    ),
    X86Model(
        "Nehalem",
        vendor="Intel",
        signatures=(
            Signature(6, 26),
            Signature(6, 30),
            Signature(6, 31),
            Signature(6, 46),
        ),
        like="Penryn",
        plus="sse4.2 popcnt",
    ),
    X86Model(
        "Nehalem-IBRS",
        vendor="Intel",
        signatures=(
            Signature(6, 26),
            Signature(6, 30),
            Signature(6, 31),
            Signature(6, 46),
        ),
        like="Nehalem",
        plus="spec-ctrl",
    ),
    X86Model(
        "Westmere",
        vendor="Intel",
        signatures=(
            Signature(6, 44),
            Signature(6, 47),
            Signature(6, 37),
        ),
        like="Nehalem",
        plus="aes",
    ),
    X86Model(
        "Westmere-IBRS",
        vendor="Intel",
        signatures=(Signature(6, 44),),
        like="Nehalem-IBRS",
        plus="aes",
    ),
    X86Model(
        "SandyBridge",
        vendor="Intel",
        signatures=(
            Signature(6, 42),
            Signature(6, 45),
        ),
        like="Westmere",
        plus="pclmuldq x2apic tsc-deadline xsave avx rdtscp",
    ),
    X86Model(
        "SandyBridge-IBRS",
        vendor="Intel",
        signatures=(
            Signature(6, 42),
            Signature(6, 45),
        ),
        like="SandyBridge",
        plus="spec-ctrl",
    ),
    X86Model(
        "IvyBridge",
        vendor="Intel",
        signatures=(
            Signature(6, 58),
            Signature(6, 62),
        ),
        like="SandyBridge",
        plus="vme f16c rdrand fsgsbase smep erms",
    ),
    X86Model(
        "IvyBridge-IBRS",
        vendor="Intel",
        signatures=(
            Signature(6, 58),
            Signature(6, 62),
        ),
        like="IvyBridge",
        plus="spec-ctrl",
    ),
    X86Model(
        "Haswell-noTSX",
        vendor="Intel",
        signatures=(
            Signature(6, 60),
            Signature(6, 63),
            Signature(6, 69),
            Signature(6, 70),
        ),
        like="SandyBridge",
        plus="fma pcid movbe fsgsbase bmi1 avx2 smep bmi2 erms invpcid",
    ),
    X86Model(
        "Haswell-noTSX-IBRS",
        vendor="Intel",
        signatures=(
            Signature(6, 60),
            Signature(6, 63),
            Signature(6, 69),
            Signature(6, 70),
        ),
        like="Haswell-noTSX",
        plus="spec-ctrl",
    ),
    X86Model(
        "Haswell",
        vendor="Intel",
        signatures=(
            Signature(6, 60),
            Signature(6, 63),
            Signature(6, 69),
            Signature(6, 70),
        ),
        like="Haswell-noTSX",
        plus="hle rtm",
    ),
    X86Model(
        "Haswell-IBRS",
        vendor="Intel",
        signatures=(
            Signature(6, 60),
            Signature(6, 63),
            Signature(6, 69),
            Signature(6, 70),
        ),
        like="Haswell",
        plus="spec-ctrl",
    ),
    X86Model(
        "Broadwell-noTSX",
        vendor="Intel",
        signatures=(
            Signature(6, 61),
            Signature(6, 71),
            Signature(6, 79),
            Signature(6, 86),
        ),
        like="Haswell-noTSX",
        plus="rdseed adx smap 3dnowprefetch",
    ),
    X86Model(
        "Broadwell-noTSX-IBRS",
        vendor="Intel",
        signatures=(
            Signature(6, 61),
            Signature(6, 71),
            Signature(6, 79),
            Signature(6, 86),
        ),
        like="Broadwell-noTSX",
        plus="spec-ctrl",
    ),
    X86Model(
        "Broadwell",
        vendor="Intel",
        signatures=(
            Signature(6, 61),
            Signature(6, 71),
            Signature(6, 79),
            Signature(6, 86),
        ),
        like="Broadwell-noTSX",
        plus="hle rtm",
    ),
    X86Model(
        "Broadwell-IBRS",
        vendor="Intel",
        signatures=(
            Signature(6, 61),
            Signature(6, 71),
            Signature(6, 79),
            Signature(6, 86),
        ),
        like="Broadwell",
        plus="spec-ctrl",
    ),
    X86Model(
        "Skylake-Client",
        vendor="Intel",
        signatures=(
            Signature(6, 94),
            Signature(6, 78),
            Signature(6, 142),
            Signature(6, 158),
        ),
        like="Broadwell",
        plus="vme f16c rdrand arat mpx xsaveopt xsavec xgetbv1 abm",
    ),
    X86Model(
        "Skylake-Client-IBRS",
        vendor="Intel",
        signatures=(
            Signature(6, 94),
            Signature(6, 78),
            Signature(6, 142),
            Signature(6, 158),
        ),
        like="Skylake-Client",
        plus="spec-ctrl",
    ),
    X86Model(
        "Skylake-Client-noTSX-IBRS",
        vendor="Intel",
        signatures=(
            Signature(6, 94),
            Signature(6, 78),
            Signature(6, 142),
            Signature(6, 158),
        ),
        decode_guest=False,
        like="Skylake-Client-IBRS",
        minus="hle rtm",
    ),
    X86Model(
        "Skylake-Server",
        vendor="Intel",
        signatures=(Signature(6, 85, range(0, 5)),),
        like="Skylake-Client",
        plus="avx512f avx512dq clwb avx512cd avx512bw avx512vl pdpe1gb",
    ),
    X86Model(
        "Skylake-Server-IBRS",
        vendor="Intel",
        signatures=(Signature(6, 85, range(0, 5)),),
        like="Skylake-Server",
        plus="spec-ctrl",
    ),
    X86Model(
        "Skylake-Server-noTSX-IBRS",
        vendor="Intel",
        signatures=(Signature(6, 85, range(0, 5)),),
        decode_guest=False,
        like="Skylake-Server-IBRS",
        minus="hle rtm",
    ),
    X86Model(
        "Cascadelake-Server",
        vendor="Intel",
        signatures=(Signature(6, 85, range(5, 8)),),
        like="Skylake-Server-IBRS",
        plus="clflushopt avx512vnni ssbd",
    ),
    X86Model(
        "Cascadelake-Server-noTSX",
        vendor="Intel",
        signatures=(Signature(6, 85, range(5, 8)),),
        decode_guest=False,
        like="Cascadelake-Server",
        minus="hle rtm",
    ),
    X86Model(
        "Icelake-Client",
        vendor="Intel",
        signatures=(Signature(6, 126),),
        like="Skylake-Client-IBRS",
        plus=(
            "avx512vbmi umip pku avx512vbmi2 gfni vaes vpclmulqdq avx512vnni avx512bitalg "
            "avx512-vpopcntdq ssbd wbnoinvd"
        ),
        removed="intel-pt",
    ),
    X86Model(
        "Icelake-Client-noTSX",
        vendor="Intel",
        signatures=(Signature(6, 126),),
        decode_guest=False,
        like="Icelake-Client",
        minus="hle rtm",
        removed="intel-pt",
    ),
    X86Model(
        "Icelake-Server",
        vendor="Intel",
        signatures=(Signature(6, 106),),
        like="Icelake-Client",
        plus="avx512f avx512dq clflushopt clwb avx512cd avx512bw avx512vl la57 pdpe1gb",
        removed="intel-pt",
    ),
    X86Model(
        "Icelake-Server-noTSX",
        vendor="Intel",
        signatures=(Signature(6, 106),),
        decode_guest=False,
        like="Icelake-Server",
        minus="hle rtm",
        removed="intel-pt",
    ),
    X86Model(
        "Cooperlake",
        vendor="Intel",
        signatures=(Signature(6, 85, range(10, 12)),),
        like="Cascadelake-Server",
        plus=(
            "pku stibp arch-capabilities avx512-bf16 rdctl-no ibrs-all skip-l1dfl-vmentry mds-no "
            "pschange-mc-no taa-no"
        ),
        minus="mpx",
    ),
    X86Model(
        "Snowridge",
        vendor="Intel",
        signatures=(Signature(6, 134),),
        like="IvyBridge-IBRS",
        plus=(
            "movbe arat rdseed smap clflushopt clwb sha-ni umip gfni cldemote movdiri movdir64b "
            "arch-capabilities core-capability ssbd xsaveopt xsavec xgetbv1 pdpe1gb 3dnowprefetch "
            "split-lock-detect"
        ),
        minus="avx f16c",
    ),
    X86Model(
        "athlon",
        vendor="AMD",
        like="pentium3",
        plus="apic sse2 mmxext 3dnowext 3dnow",
        minus="mca",
    ),
    X86Model(
        "phenom",
        vendor="AMD",
        like="cpu64-rhel5",
        plus="monitor mmxext fxsr_opt 3dnowext 3dnow svm",
    ),
    X86Model(
        "Opteron_G1",
        vendor="AMD",
        signatures=(Signature(15, 6),),
        like="cpu64-rhel5",
    ),
    X86Model(
        "Opteron_G2",
        vendor="AMD",
        signatures=(Signature(15, 6),),
        like="cpu64-rhel6",
        plus="rdtscp svm",
    ),
    X86Model(
        "Opteron_G3",
        vendor="AMD",
        signatures=(Signature(15, 6),),
        like="Opteron_G2",
        plus="popcnt abm sse4a misalignsse",
        removed="monitor",
    ),
    X86Model(
        "Opteron_G4",
        vendor="AMD",
        signatures=(Signature(21, 1),),
        like="SandyBridge",
        plus="pdpe1gb svm abm sse4a misalignsse 3dnowprefetch xop fma4",
        minus="x2apic tsc-deadline",
    ),
    X86Model(
        "Opteron_G5",
        vendor="AMD",
        signatures=(Signature(21, 2),),
        like="Opteron_G4",
        plus="fma f16c tbm",
    ),
    X86Model(
        "EPYC",
        vendor="AMD",
        signatures=(Signature(23, 1),),
        like="Skylake-Client-noTSX-IBRS",
        plus="clflushopt sha-ni mmxext fxsr_opt pdpe1gb svm cr8legacy sse4a misalignsse osvw",
        minus="pcid x2apic tsc-deadline erms invpcid mpx spec-ctrl",
        removed="monitor",
    ),
    X86Model(
        "EPYC-IBPB",
        vendor="AMD",
        signatures=(Signature(23, 1),),
        like="EPYC",
        plus="ibpb",
        removed="monitor",
    ),
    X86Model(
        "EPYC-Rome",
        vendor="AMD",
        signatures=(Signature(23, 49),),
        like="EPYC-IBPB",
        plus="clwb umip rdpid perfctr_core clzero xsaveerptr wbnoinvd amd-stibp npt nrip-save",
    ),
    X86Model(
        "EPYC-Milan",
        vendor="AMD",
        signatures=(Signature(25, 1),),
        like="EPYC-Rome",
        plus="pcid erms invpcid pku fsrm xsaves ibrs amd-ssbd svme-addr-chk",
    ),
    X86Model(
        "Dhyana",
        vendor="Hygon",
        signatures=(Signature(24, 0),),
        like="EPYC-IBPB",
        minus="pclmuldq aes sha-ni",
        removed="monitor",
    ),
)
"""Every model, the older first."""

MODEL_BY_NAME: Mapping[str, X86Model] = {model.name: model for model in MODELS}


@cache
def features_of(name: str) -> frozenset[str]:
    """Return the features a model name stands for; raises KeyError for an unknown name."""
    model = MODEL_BY_NAME[name]
    inherited = features_of(model.like) if model.like else frozenset()
    return (inherited | frozenset(model.plus.split())) - frozenset(model.minus.split())
