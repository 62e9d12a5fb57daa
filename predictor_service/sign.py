"""`trail predictor sign ARTEFACT --key KEY`: says that an artefact is yours."""

from pathlib import Path
from typing import Annotated

import typer

from predictor_service import signature
from predictor_service.artefact import MANIFEST, ArtefactError
from predictor_service.catalogue import read

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def sign(
    artefact: Annotated[Path, typer.Argument(help="Folder of an artefact.")],
    key: Annotated[Path, typer.Option(help="Private key, Ed25519 in PEM: openssl genpkey -algorithm ed25519")],
) -> None:
    """Writes manifest.sig into ARTEFACT, once it is seen to be good; services with model_public_key_file want it."""
    try:
        read(artefact)
        written = artefact / signature.FILE
        written.write_bytes(signature.private_key(key).sign((artefact / MANIFEST).read_bytes()))
    except (ArtefactError, ValueError, OSError) as error:
        typer.echo(f"trail predictor sign: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{written}: signed")
