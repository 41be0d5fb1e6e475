"""A made-up machine: the files of /proc and /sys that the host modules read, below a directory."""

from pathlib import Path

CPUINFO = """\
processor	: {n}
vendor_id	: {vendor}
cpu family	: 6
model		: 63
model name	: Made up
stepping	: 4
microcode	: 0x2b
cpu MHz		: 2294.{n}67
flags		: {flags}
address sizes	: 46 bits physical, 48 bits virtual
power management:

"""

FLAGS = (
    "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 ss ht "
    "syscall nx rdtscp lm constant_tsc nonstop_tsc pni pclmulqdq vmx ssse3 fma cx16 pcid sse4_1 sse4_2 "
    "x2apic movbe popcnt tsc_deadline_timer aes xsave avx f16c rdrand hypervisor lahf_lm abm fsgsbase "
    "tsc_adjust bmi1 avx2 smep bmi2 erms invpcid xsaveopt arat ibrs ibpb stibp ssbd"
)


def write(path: Path, text: str | int) -> None:
    """Write a file and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def make(
    root: Path, *, nodes: int = 2, cores: int = 2, threads: int = 2, vendor: str = "GenuineIntel"
) -> Path:
    """Make a machine of one socket per node; the threads of a core have numbers far apart."""
    count = nodes * cores * threads
    write(
        root / "proc/cpuinfo", "".join(CPUINFO.format(n=n, vendor=vendor, flags=FLAGS) for n in range(count))
    )
    cpu_dir = root / "sys/devices/system/cpu"
    for name in ("present", "online"):
        write(cpu_dir / name, f"0-{count - 1}" if count > 1 else "0")
    for node in range(nodes):
        mine = []
        for core in range(cores):
            siblings = [node * cores + core + t * nodes * cores for t in range(threads)]
            mine += siblings
            for cpu in siblings:
                topology = cpu_dir / f"cpu{cpu}/topology"
                write(topology / "physical_package_id", node)
                write(topology / "die_id", 0)
                write(topology / "core_id", core)
                write(topology / "thread_siblings_list", ",".join(map(str, siblings)))
        for cpu in mine:
            for index, (level, kind, room) in enumerate(((1, "Data", "32K"), (3, "Unified", "30720K"))):
                cache = cpu_dir / f"cpu{cpu}/cache/index{index}"
                write(cache / "level", level)
                write(cache / "type", kind)
                write(cache / "size", room)
                write(cache / "id", node if level == 3 else cpu)
                write(cache / "shared_cpu_list", ",".join(map(str, sorted(mine))) if level == 3 else str(cpu))
        node_dir = root / f"sys/devices/system/node/node{node}"
        write(node_dir / "cpulist", ",".join(map(str, sorted(mine))))
        write(node_dir / "distance", " ".join("10" if n == node else "21" for n in range(nodes)))
        write(node_dir / "meminfo", f"Node {node} MemTotal: 16777216 kB\nNode {node} MemFree: 8388608 kB")
        for size, total, free in ((2048, 100, 40), (1048576, 2, 1)):
            write(node_dir / f"hugepages/hugepages-{size}kB/nr_hugepages", total)
            write(node_dir / f"hugepages/hugepages-{size}kB/free_hugepages", free)
    for size in (2048, 1048576):
        (root / f"sys/kernel/mm/hugepages/hugepages-{size}kB").mkdir(parents=True)
    write(root / "proc/meminfo", "MemTotal: 33554432 kB\nMemFree: 16777216 kB\nBuffers: 10 kB\nCached: 20 kB")
    write(root / "etc/machine-id", "3d1219c7c4c5404aaa1f6d2a48adfda4")
    return root
