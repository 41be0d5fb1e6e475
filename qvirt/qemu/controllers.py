"""Controllers as a list: their order, finding them, adding them, numbering them."""

from qvirt.errors import XmlDetail, XmlError
from qvirt.model.devices.controller import Controller, ControllerType, Master, insert_controller
from qvirt.model.domain import Domain

#: the parts of an ICH9 USB2 controller, and the PCI function each has in their common slot
USB2_FUNCTIONS: dict[str, int] = {"ich9-ehci1": 7, "ich9-uhci1": 0, "ich9-uhci2": 1, "ich9-uhci3": 2}
#: the companions, and the first port of the EHCI controller that each takes over
USB2_COMPANIONS: dict[str, int] = {"ich9-uhci1": 0, "ich9-uhci2": 2, "ich9-uhci3": 4}


def find_controller(domain: Domain, type: ControllerType, index: int) -> Controller | None:
    """Return the first controller of a type and index."""
    for controller in domain.devices.controllers:
        if controller.type is type and controller.index == index:
            return controller
    return None


def ensure_controller(
    domain: Domain, type: ControllerType, index: int, model: str | None = None
) -> Controller | None:
    """Add a controller unless there is one of this type and index; return the new one."""
    if find_controller(domain, type, index) is not None:
        return None
    added = Controller(type=type, index=index)
    if model is not None:
        added.model = model
    domain.devices.controllers.append(added)
    return added


def add_usb_controller(domain: Domain, index: int, model: str | None) -> None:
    """Add a USB controller; the EHCI of ICH9 comes with its companions for slower devices."""
    ensure_controller(domain, ControllerType.USB, index, model)
    if model == "ich9-ehci1":
        for companion, port in USB2_COMPANIONS.items():
            domain.devices.controllers.append(
                Controller(
                    type=ControllerType.USB, index=index, model=companion, master=Master(startport=port)
                )
            )


def arrange_controllers(domain: Domain) -> None:
    """Put the controllers of a document into libvirt's order, and give USB companions their ports.

    Raises XmlDetail for USB controllers that contradict each other.
    """
    given = domain.devices.controllers
    for controller in given:
        if controller.type is ControllerType.USB and controller.master is None:
            port = USB2_COMPANIONS.get(controller.model or "")
            if port is not None:
                controller.master = Master(startport=port)
    _check_usb(given)
    ordered: list[Controller] = []
    for controller in given:
        insert_controller(ordered, controller)
    domain.devices.controllers = ordered


def refuse_duplicates(domain: Domain) -> None:
    """Raise XmlError when two controllers have one type and index; parts of a USB controller may."""
    seen: set[tuple[str, int | None]] = set()
    for controller in domain.devices.controllers:
        if controller.type is ControllerType.USB:
            continue
        key = (controller.type, controller.index)
        if key in seen:
            raise XmlError(f"Multiple '{controller.type}' controllers with index '{controller.index}'")
        seen.add(key)


def _check_usb(controllers: list[Controller]) -> None:
    none = other = master = False
    for controller in controllers:
        if controller.type is not ControllerType.USB:
            continue
        if controller.model == "none":
            if other or none:
                raise XmlDetail(_USB_DISABLED)
            none = True
        else:
            if none:
                raise XmlDetail(_USB_DISABLED)
            other = True
            master = master or controller.master is None
    if other and not master:
        raise XmlDetail("No master USB controller specified")


_USB_DISABLED = "Can't add another USB controller: USB is disabled for this domain"


def number_controllers(domain: Domain) -> None:
    """Give the lowest unused index of its type to each controller that has none.

    A part of an ICH9 USB2 group joins the part before it, when that group still lacks this part.
    """
    controllers = domain.devices.controllers
    for position, controller in enumerate(controllers):
        if controller.index is not None:
            continue
        before = controllers[position - 1] if position else None
        if (
            before is not None
            and _is_usb2(controller)
            and _is_usb2(before)
            and not any(
                other.model == controller.model and other.index == before.index for other in controllers
            )
        ):
            controller.index = before.index
            continue
        taken = {other.index for other in controllers if other.type is controller.type}
        controller.index = next(index for index in range(len(controllers) + 1) if index not in taken)


def _is_usb2(controller: Controller) -> bool:
    return controller.type is ControllerType.USB and controller.model in USB2_FUNCTIONS
