"""The QEMU monitor and the guest agent: framing, asyncio clients and the commands the driver uses."""
