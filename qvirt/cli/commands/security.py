"""``qvirt security explain DOMAIN``: what the guest's QEMU may touch, and the device that is the reason."""

from typing import Final

from qvirt.cli import beside
from qvirt.cli.command import DOMAIN, Command, CommandError, Context, place


async def security(context: Context) -> None:
    """Explain a domain's confinement."""
    if context.args.action != "explain":
        raise CommandError(f"unknown action '{context.args.action}', there is: explain")
    domain = await context.domain()
    connection = await context.connection()
    await beside.need_files_here(connection)
    models = _models(await connection.capabilities())
    xml = (await domain.call("DOMAIN_GET_XML_DESC", flags=0)).xml
    words = "qvirt.runtime.explain", models, beside.settings_of(connection.uri)
    answer = await beside.ask(*words, text=xml, late="a file system did not answer")
    for line in answer.out.splitlines():
        context.output.line(line)
    if answer.status:
        raise CommandError(answer.said or "the document cannot be explained")
    if answer.said:
        context.output.line(answer.said)


def _models(capabilities: str) -> str:
    """Return the models in use with their base labels, as the explainer takes them."""
    # the command line starts without an XML library, as most commands need none
    from qvirt.xml.document import parse_element

    found = []
    for model in parse_element(capabilities, "capabilities").iterfind("host/secmodel"):
        label = model.findtext("baselabel")
        found.append(f"{model.findtext('model')}={label}" if label else str(model.findtext("model")))
    return ",".join(found)


COMMANDS: Final = (
    Command(
        "security",
        "say what a domain may touch, and why: security explain DOMAIN",
        security,
        (place("action", "explain"), DOMAIN),
    ),
)
