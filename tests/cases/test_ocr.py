"""Text in images is found by OCR, or the user is told why not."""

import asyncio
import base64
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from ingestq.core.documents import Document, Lane
from ingestq.core.errors import DocumentRejected
from tests.command import Ingestq
from tests.pdf_files import GrayImage, PdfPage, full_page, lines_of, write_pdf
from worker.embedding.config import EmbeddingConfig
from worker.embedding.pool import ModelPool
from worker.process_pool import process
from worker.process_pool.limits import TimeLimit
from worker.text import ocr, processes
from worker.text.config import HookVersions, OcrMode, ReadingConfig
from worker.text.extract import extract
from worker.text.ocr import OcrPostponed, find_data, ocr_budget
from worker.text.parts import ExtractedDocument, PreparedDocument, UnchangedContent
from worker.text.processes import prepare_document

PDF = "application/pdf"
AUTO = ReadingConfig()
OFF = ReadingConfig(ocr=OcrMode.OFF)
FORCE = ReadingConfig(ocr=OcrMode.FORCE)
TYPED = "The keeper of the tide mill writes the level of the pond into a book each morning."
HERON = "The heron stands in the reeds.\nForty-one gannets were counted\non the north cliff in May."
PUFFIN = "Second page: puffins and razorbills."

CPU_SECONDS = 2
PAGES = 12
"""All of them take 4 s of processor time, and each takes a third of one."""

pytestmark = pytest.mark.usefixtures("ocr_data")


def picture(text: str, size: tuple[int, int] = (1240, 1754), points: int = 40) -> Image.Image:
    image = Image.new("L", size, 255)
    font = ImageFont.load_default(points)
    ImageDraw.Draw(image).text((80, 80), text, font=font, fill=0, spacing=20)
    return image


def scan(text: str) -> PdfPage:
    image = picture(text)
    return full_page(GrayImage(image.width, image.height, image.tobytes()))


def file_of(image: Image.Image, kind: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def is_heron(text: str) -> bool:
    return text.split() == HERON.split()


def read(pages: list[PdfPage | str], reading: ReadingConfig = AUTO) -> ExtractedDocument:
    return extract(write_pdf(pages), PDF, reading)


def test_pages_without_text_are_read_and_no_others() -> None:
    extracted = read([lines_of(TYPED), scan(HERON), ""])
    assert [part.page for part in extracted.parts] == [1, 2]
    assert TYPED in extracted.parts[0].text
    assert is_heron(extracted.parts[1].text)
    assert extracted.warnings == ()


def test_a_stamp_does_not_hide_a_scan() -> None:
    page = scan(HERON)
    [part] = read([replace(page, content=f"{page.content}\n{lines_of('AB-000417')}")]).parts
    assert "AB-000417" in part.text
    assert "gannets were counted" in part.text


@pytest.mark.parametrize(
    "lines", [HERON.splitlines(), HERON.splitlines()[:1], ["The her0n stands"]]
)
def test_text_that_lies_below_a_scan_is_read_once(lines: list[str]) -> None:
    page = scan(HERON)
    below = lines_of(*lines).replace("BT", "BT 3 Tr")
    [part] = read([replace(page, content=f"{page.content}\n{below}")]).parts
    assert part.text.count("gannets") == 1


def test_a_page_that_ocr_cannot_read_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "eng.traineddata").write_bytes(b"damaged")
    extracted = read([lines_of(TYPED), scan(HERON)], ReadingConfig(tessdata=tmp_path))
    assert TYPED in extracted.text
    [warning] = extracted.warnings
    assert warning.startswith("1 of 2 pages has no text from OCR, which failed")


def test_off_names_the_pages_without_text() -> None:
    extracted = read([lines_of(TYPED), scan(HERON), scan(PUFFIN)], OFF)
    assert [part.page for part in extracted.parts] == [1]
    assert extracted.warnings == ("2 of 3 pages have no text (INGESTQ_OCR is off): 2, 3",)


@pytest.mark.parametrize(
    ("data", "media_type"),
    [(write_pdf([scan(HERON)]), PDF), (file_of(picture(HERON), "PNG"), "image/png")],
    ids=["scan", "image"],
)
def test_off_rejects_what_has_no_other_text(data: bytes, media_type: str) -> None:
    with pytest.raises(DocumentRejected, match="INGESTQ_OCR is off"):
        extract(data, media_type, OFF)


def test_force_reads_pages_with_text() -> None:
    wrong = scan(HERON)
    wrong = replace(wrong, content=f"{wrong.content}\n{lines_of(TYPED).replace('BT', 'BT 3 Tr')}")
    [part] = read([wrong], FORCE).parts
    assert is_heron(part.text)
    [part] = read([wrong], AUTO).parts
    assert TYPED in part.text


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"])
def test_images_are_read(kind: str) -> None:
    [part] = extract(file_of(picture(HERON), kind), f"image/{kind.lower()}").parts
    assert is_heron(part.text)
    assert part.page is None


def test_all_pages_of_a_fax_are_read() -> None:
    pages = [picture(PUFFIN), picture("")]
    data = file_of(picture(HERON), "TIFF", save_all=True, append_images=pages)
    extracted = extract(data, "image/tiff")
    assert [part.page for part in extracted.parts] == [1, 2]
    assert is_heron(extracted.parts[0].text)
    assert extracted.parts[1].text == PUFFIN
    assert extracted.warnings == ("OCR found no text on 1 of 3 pages",)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_images_that_lie_on_their_side_are_turned(turn: int) -> None:
    data = file_of(picture(HERON).rotate(turn, expand=True), "PNG")
    assert is_heron(extract(data, "image/png").text)


def test_black_letters_on_nothing_are_read() -> None:
    letters = picture(HERON)
    clear = Image.new("RGBA", letters.size, (0, 0, 0, 0))
    clear.putalpha(letters.point(lambda gray: 255 - gray))
    assert is_heron(extract(file_of(clear, "PNG"), "image/png").text)


def test_small_letters_of_a_screen_are_read() -> None:
    image = picture("Error 4711: the pump is off.", (700, 220), points=13)
    assert "Error 4711: the pump is off." in extract(file_of(image, "PNG"), "image/png").text


KOREAN_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAA+gAAAC+AQAAAACO5xg+AAAACXBIWXMAAB7CAAAewgFu0HU+AAAFwklEQVR42u2a"
    "vY8bRRTAf2OvzpYIsSWaCwqxRR3gIkC66jxXgCgi+BcufwEnqhQoNw4U6UhJFzdIFDSRKNKgW18FnSMoIqp1FESg"
    "wT5Owra8OxSzn3dJpHjXBNBzcd59M+vfvpn3MfPmlOUFfmoIXehCF7rQhS50oQtd6EIXutCFLnShC13oQhe60P8F"
    "9BDGqg0wAmseO+kArIETUEo70SLuE1ZMD5jB0N0GuR5hXmRN2qfakW/YALSGUUxVbaYqbrTWzFWNMYDWmbzkx3Nf"
    "f204yKXgVLvJcSyDCOxOwKRi3Y37unZNJy11e4/WktzYLDnvQ7S7T8NWSj/2AYgM4Bd75F6AuwFgdNXz/ksy4h/5"
    "zE4P/lOuq6N/sP8EQhOAmZ+b+Mk66Lb9Tia6DBdUE2KnrweJ74NeS7RZ7L3BXHXB3NX2veKEn+SGpWq8oz82Td2l"
    "SQ1YeJqOnQGMpx4McsPCMWD8iukNNujYCdw59Gc3g4KZ3boEU6WO0ifu3M6MohL6JsoHUA81f6pB3LbVqVvs1qs5"
    "vc+DethdV44bGrzc5E4A7UHL2igV+j5wxi/L0UOllGGHrc1RfM0UQBnOZd19oPdP5Pfpa+1TkhC/vQ6b7yv1iv3V"
    "GoaqC9SttQZa7i1UamBJxtlam+5pNGvZSeb4fbe6CAywQGO7FdIPZjGqZwvO3Kbp3sIQwAYfx9B5rWrdRznpKDXF"
    "+KJnDcCxduG+rYK1Wd0tssh+vdCyF2egVrSWeR8r3b+SpdGWNcxVZugdp/q6PC6gDdupqi6suNVXvxW/xiwKTs9U"
    "BfRNoGWDg6LhUbenwtqx2efsEmjNu4kDG/vFo++2q0q2K7jODw8uVhVyMvpUeWlgmyov3dyEqgZDlZqivf3J+eqt"
    "rpv+ib90bnVn4hZlUHtXm1XRlfy3j9CFLnShC13oQhf6/4oe4mrvAyDEqmRZGQInwIAFIcMr7XgbY01cOx+kNfyV"
    "6eMa7kfy683irdu+BWBVl0fWuLcbkpa5S+huQXUJlYapyla6UwX9ppMD9N7K9k9TA2hDGMLQK0PvLOOdaQATDH3l"
    "YY27ZunkKA+Lj4rHaOSD3fFZzszKe7paWhzpGeoWaOT25o0IDgInB0C3ScrIjQDY3WO+AZ1lKbrKb2jgwC5zxaJk"
    "4pdEGFzN5iYP9iEyE2oldrOpxzWf6YjxW50cAlzRYS3ZaenszVenL4rSudUt+4Rq5I8fPo4PMG5gXPsY+LwkfVKs"
    "fM6igKMzWz6Pq+/+DCdf+PUoHY4qos2jnE8DdWXomaKveyi2apvpGU6M7wCflqR/n9h0MhTYHd9p3+86ed1G+Oc2"
    "4KsRcBPmcf3Eltb9NsAtYmdrtoHdxBo9iNw5IGyC/fLb7GnTJnIRubs6PX02Hu3Qmsjs7bihnVE4i1p0t4Ab0AAO"
    "BzQWZXU/8QGuJ0cxs2YtVWVmgCUd+spVUjz/HC8nYeJI4zUN6dnRSvT7iaclMU4VI0gsD9UFZeqwBcZFX99Qr5fV"
    "/U3qxSATUTODYq+0kgy0LARNoMcey7L0dnz3U67lMHcdZ29Xtx+qLihjnpqLn9vqVC3veKFSqn+ks15fFx+aAEx8"
    "gHGb0THMTRmPwzI0zvGS2vvQuGsz107ejBt61rdKsX07iw/jFWtoXjykococz2QZFcO4+XYstwx1K5l7s9sNgY4B"
    "0I1yuoMNWGqgk4tdHQvU/aXGnb8nB2HKRmzpzGR6szLzbpVXMJ9RllQ5WGbyng1g7NZZLRMPzr2yNh+5JL1RbEt9"
    "vigPUhfBLTX+4Oya9PlWlc9x1NGyubgWBXzjOQVewG5iuW/53az6QyXpwW/bi/fvD1YNOUm6KC7OpsrjmnpK0syv"
    "N8evX5x9NtgvZ3W1UwHzmcm6m7NKc7n9Uk3rVelSnxe60IUudKELXehCF7rQhS50oQtd6EIXutCFLnShC13oQhe6"
    "0IUudKELXehC/y/S/wbVT+xYLHJCRQAAAABJRU5ErkJggg=="
)
"""Two lines of Korean, from the free font NanumGothic."""


@pytest.mark.parametrize("languages", [("kor",), ("eng", "kor")])
def test_korean_keeps_its_spaces(languages: tuple[str, ...]) -> None:
    text = extract(KOREAN_PNG, "image/png", ReadingConfig(ocr_languages=languages)).text
    assert "수문 열쇠는 관리실 금고에 있다." in text
    assert "갈매기 마흔한 마리가 북쪽 절벽에 앉았다." in text


def test_no_text_is_never_silent() -> None:
    with pytest.raises(DocumentRejected, match="OCR \\(eng\\) found no text"):
        extract(file_of(picture(""), "PNG"), "image/png")
    with pytest.raises(DocumentRejected, match="the page has no text that OCR can read"):
        read([scan("")])
    warning = "1 of 2 pages has no text that OCR can read: 2"
    assert read([lines_of(TYPED), scan("")]).warnings == (warning,)


def test_missing_language_data_is_said_with_what_to_install() -> None:
    reading = ReadingConfig(ocr_languages=("eng", "xxx_sim"))
    install = "no language data for xxx_sim; install it \\(on Debian: tesseract-ocr-xxx-sim\\)"
    with pytest.raises(DocumentRejected, match=install):
        extract(file_of(picture(HERON), "PNG"), "image/png", reading)
    with pytest.raises(DocumentRejected, match=install):
        read([scan(HERON)], reading)
    extracted = read([lines_of(TYPED), scan(HERON)], reading)
    assert TYPED in extracted.text
    [warning] = extracted.warnings
    assert warning.startswith("1 of 2 pages has no text (OCR has no language data for xxx_sim")


def test_language_data_is_found_in_the_usual_places_and_where_the_user_says(tmp_path: Path) -> None:
    debian = tmp_path / "usr/share/tesseract-ocr/5/tessdata"
    homebrew = tmp_path / "opt/homebrew/share/tessdata"
    for folder, languages in ((debian, ("eng",)), (homebrew, ("eng", "kor"))):
        folder.mkdir(parents=True)
        for language in languages:
            (folder / f"{language}.traineddata").touch()
    assert find_data(("eng",), None, tmp_path).folder == debian
    assert find_data(("eng", "kor"), None, tmp_path).folder == homebrew
    assert find_data(("eng", "jpn"), None, tmp_path).missing == ("jpn",)
    assert find_data(("kor",), debian, tmp_path).missing == ("kor",)
    assert find_data(("kor",), homebrew.parent, tmp_path).folder == homebrew
    nowhere = find_data(("eng",), tmp_path / "nowhere", tmp_path)
    assert (nowhere.folder, nowhere.missing) == (None, ("eng",))


def test_a_bomb_of_pixels_is_rejected() -> None:
    bomb = file_of(Image.new("1", (30_000, 30_000)), "PNG")
    with pytest.raises(DocumentRejected, match="too many pixels"):
        extract(bomb, "image/png")


def test_pages_beyond_the_time_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "OCR_SECONDS", 0.0)
    with ocr_budget(None):
        extracted = read([lines_of(TYPED), scan(HERON)])
    [warning] = extracted.warnings
    assert warning.startswith("1 of 2 pages has no text from OCR, which had no time left")


def test_more_pages_than_allowed_are_postponed() -> None:
    with ocr_budget(1), pytest.raises(OcrPostponed):
        read([scan(HERON), scan(PUFFIN)])
    with ocr_budget(1):
        assert is_heron(read([scan(HERON)]).text)


@pytest.fixture
async def pool(cache_dir: Path) -> AsyncIterator[ModelPool]:
    """Yield the default model with one parse process for bulk documents."""
    async with ModelPool(EmbeddingConfig(cache_dir)) as pool:
        yield pool


async def prepare(pool: ModelPool, lane: Lane, path: Path) -> PreparedDocument:
    document = Document(doc_id="a", version=1, source="a", path=str(path))
    prepared = await pool.prepare(lane, document, None)
    assert isinstance(prepared, PreparedDocument)
    return prepared


def text_of(prepared: PreparedDocument) -> str:
    return " ".join(chunk.body for chunk in prepared.first.chunks)


def pid() -> int:
    return os.getpid()


def prepare_in_little_processor_time(
    document: Document, known_hash: str | None, ocr_pages: int | None, hooks: HookVersions
) -> PreparedDocument | UnchangedContent | None:
    """Prepare a document, in a parse process, whose other time is that of a busy machine."""
    process._limit_task(TimeLimit(CPU_SECONDS, wall=600.0))
    return prepare_document(document, known_hash, ocr_pages, hooks)


@pytest.mark.slow
@pytest.mark.parametrize("lane", [Lane.BULK, Lane.INTERACTIVE])
async def test_ocr_of_many_pages_delays_neither_uploads_nor_searches(
    pool: ModelPool, tmp_path: Path, lane: Lane
) -> None:
    """Even if it hangs: the process for bulk work is stopped while it reads the pages."""
    upload, scans = tmp_path / "upload.txt", tmp_path / "scans.pdf"
    upload.write_text(TYPED, encoding="utf-8")
    scans.write_bytes(write_pdf([scan(f"{HERON} {page}") for page in range(6)]))
    await prepare(pool, Lane.BULK, upload)
    shared = await pool._parsers._shared.run(60.0, pid)
    os.kill(shared, signal.SIGSTOP)
    reading = asyncio.create_task(prepare(pool, lane, scans))
    try:
        async with asyncio.timeout(150):
            while pool._parsers._free._shared != 0:  # noqa: ASYNC110 - nothing to await
                await asyncio.sleep(0.01)
            await prepare(pool, Lane.INTERACTIVE, upload)
            await pool.embed_query("heron")
        assert not reading.done()
    finally:
        os.kill(shared, signal.SIGCONT)
    assert "gannets" in text_of(await reading)


@pytest.mark.slow
async def test_each_page_may_take_the_time_of_a_document(
    cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "prepare_document", prepare_in_little_processor_time)
    scans = tmp_path / "scans.pdf"
    scans.write_bytes(write_pdf([scan(f"{HERON} {page}") for page in range(PAGES)]))
    config = EmbeddingConfig(cache_dir)
    limits = replace(config.parse_limits, cpu_seconds=CPU_SECONDS)
    async with ModelPool(replace(config, parse_limits=limits)) as pool:
        prepared = await prepare(pool, Lane.BULK, scans)
    assert prepared.warnings == ()
    assert text_of(prepared).count("gannets") == PAGES


@pytest.mark.slow
def test_the_doctor_lists_the_languages_of_ocr(ingestq: Ingestq, tmp_path: Path) -> None:
    ingestq.settings |= {"ocr_languages": "eng,kor"}
    assert "ocr: auto, reads eng, kor; /usr/share" in ingestq("doctor").out.replace("\n", " ")
    ingestq.settings |= {"ocr_languages": "eng,xxx"}
    ran = ingestq("doctor", "--json")
    assert ran.code == 0
    [finding] = [found for found in ran.json["findings"] if found["check"] == "ocr"]
    assert finding["result"] == "warning"
    assert "tesseract-ocr-xxx" in finding["detail"]


def test_a_scan_is_found_by_its_text(ingestq: Ingestq) -> None:
    folder = ingestq.folder / "scans"
    folder.mkdir()
    (folder / "birds.pdf").write_bytes(write_pdf([lines_of(TYPED), scan(HERON)]))
    assert ingestq("run", "scans").code == 0
    [hit, *_] = ingestq("search", "how many gannets were counted", "--json").json["hits"]
    assert hit["doc_id"].endswith("birds.pdf")
    assert "Forty-one gannets" in hit["text"]
