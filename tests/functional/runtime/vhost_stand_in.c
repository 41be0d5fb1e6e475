/* Preloaded into QEMU: stands in for the kernel's vsock device where there is none.
 * Whatever vhost asks (type 0xAF) is granted; its features are the virtio version 1. */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/ioctl.h>

#define VHOST_VIRTIO 0xAF
#define GET_FEATURES 0x8008AF00u

int ioctl(int fd, unsigned long request, ...)
{
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (_IOC_TYPE(request) != VHOST_VIRTIO) {
        int (*real)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
        return real(fd, request, argument);
    }
    if (request == GET_FEATURES)
        *(uint64_t *)argument = 1ULL << 32;
    return 0;
}
