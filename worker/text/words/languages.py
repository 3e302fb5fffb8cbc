"""The languages whose words are stemmed, and how to tell which one a text is in.

A stem is what the forms of a word share: ``haus`` for *Haus* and *Häuser*. The stemmers are those
of Snowball (https://snowballstem.org). Their languages are told apart by their stop words, the most
frequent ones, which needs no model, takes microseconds, and is right for a few sentences.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Language:
    """A language: its ``code`` of ISO 639-1, its ``script`` as Unicode names it, and the most
    frequent of its words that say nothing alone.
    """

    code: str
    script: str
    stop_words: frozenset[str]


def _language(code: str, script: str, stop_words: str) -> Language:
    return Language(code, script, frozenset(stop_words.split()))


LANGUAGES: Final = (
    _language(
        "en",
        "LATIN",
        """a about after all also am an and any are as at be because been before being but by can
        could did do does doing for from had has have having he her here him his how i
        if in into is it its just me more most my no nor not of on only or other our out
        over own she should so some such than that the their them then there these they
        this those through to too under until up very was we were what when where which
        while who whom why will with would you your""",
    ),
    _language(
        "de",
        "LATIN",
        """aber als am an auch auf aus bei bin bis bist da das dass dem den der des die doch du
        durch ein eine einem einen einer eines er es für gegen hat hatte ich ihr ihre im
        in ist ja kann kein keine man mich mir mit nach nicht noch nur ob oder ohne sein
        seine sich sie sind so sowie über um und uns unter vom von vor war waren was
        wenn werden wie wir wird wo wurde wurden zu zum zur""",
    ),
    _language(
        "fr",
        "LATIN",
        """à au aux avec avoir c ce ces cette comme d dans de des du elle elles en est et été être
        eu il ils j je l la le les leur leurs lui ma mais me même mes moi mon n ne nos
        notre nous on ont ou où par pas plus pour qu quand que qui s sa sans se ses si
        son sont sous sur ta tes toi ton tous tout tu un une vos votre vous y""",
    ),
    _language(
        "es",
        "LATIN",
        """a al algo como con cual cuando de del desde donde durante e el ella ellas ellos en entre
        era es esa ese eso esta está estas este esto estos fue ha han hasta hay la las
        le les lo los más me mi mis muy ni no nos o os otra otro para pero por porque
        que qué quien se ser si sí sin sobre son su sus también tiene todo todos tu un
        una uno unos y ya yo""",
    ),
    _language(
        "it",
        "LATIN",
        """a ad agli ai al alla alle allo anche c che chi ci come con cui da dagli dai dal dalla
        dalle degli dei del dell della delle dello di dove e è ed era essere gli ha
        hanno i il in io l la le lei lo loro lui ma mi nei nel nella nelle non o per
        perché più quale quando quella quello questa questo se sei si sia sono su sua
        sue sugli sui sul sulla suo tra tu tutti un una uno vi""",
    ),
    _language(
        "pt",
        "LATIN",
        """a à ao aos as às até com como da das de dela dele depois do dos e é ela elas ele eles em
        entre era essa esse esta está este eu foi há isso isto já lhe mais mas me mesmo
        meu minha muito na não nas nem no nos o os ou para pela pelas pelo pelos por
        qual quando que quem são se sem ser seu seus só sua suas também tem tu um uma
        você""",
    ),
    _language(
        "nl",
        "LATIN",
        """aan als altijd bij daar dan dat de deze die dit door een en er geen haar had heb heeft
        hem het hier hij hoe hun ik in is ja je kan kon maar me meer men met mij mijn
        naar niet nog nu of om omdat onder ons ook op over te tegen toch toen tot u uit
        uw van veel voor waren was wat we wel werd wie wij wordt worden ze zei zelf zich
        zij zijn zo zonder zou""",
    ),
    _language(
        "sv",
        "LATIN",
        """alla allt att av blev bli då de dem den denna det detta dig din ditt du där efter eller
        en er ett från för ha hade han har hans här hon hur i icke in inte jag kan kunde
        man med mellan men mig min mitt mot mycket när ni nu och om oss på sedan sig sin
        sina som så till under upp ut utan vad var vara vi vid vilken är över""",
    ),
    _language(
        "da",
        "LATIN",
        """af alle at blev blive bliver da de dem den denne der deres det dette dig din dog du
        efter eller en end er et fra få før har havde have her hun hvad hvis hvor han i
        ikke ind jeg jer kan kun lige man mange med meget mellem men mig min mod når
        nogle nok nu og også om op os over på sig sin skal skulle som til ud uden under
        var ved vi vil være været""",
    ),
    _language(
        "no",
        "LATIN",
        """alle at av ble bli blir da de dem den denne der dere det dette din du eller en enn er et
        etter fra før ha hadde han har hun hva hvis hvor i ikke inn jeg kan kom kun man
        mange med meg mellom men min mot mye nå når noe noen og også om opp oss over på
        seg sin skal skulle slik som så til under uten ut var ved vi vil være vært""",
    ),
    _language(
        "fi",
        "LATIN",
        """ei eivät eli en ennen että hän he ja jo jos joka jotka kanssa kuin kun me mikä minä
        mukaan mutta myös niin niiden nyt ole oli olivat olla on ovat se sekä sen siinä
        sitä tai tämä tämän te tulee vain voi voidaan""",
    ),
    _language(
        "hu",
        "LATIN",
        """a az azt be csak de egy egyik el ez ezek ezt fel ha hanem hogy hogyan is ki kell le
        lehet lesz majd meg mert mi mint minden még más már ne nem olyan se sem során
        szerint után vagy van vannak volt volna és így új által össze között""",
    ),
    _language(
        "ro",
        "LATIN",
        """a acest această aceste acestea ai al ale am ar are as au ca când care ce cea cei cel
        cele cu cum dar de decât despre din după ea ei el este eu fi fiind fost în într
        iar îi îl la lor lui mai nu o or pe pentru prin sa sale sau să se si și sunt sub
        toate un unei unor unui va vor""",
    ),
    _language(
        "pl",
        "LATIN",
        """a aby ale bez być był była było były co czy dla do gdy gdzie go i ich ile im innych jak
        jako je jego jej jest jeszcze już każdy kiedy kto która które który lub ma mi
        może można na nad nie nich niż o od oraz po pod przed przez przy są się są ta
        tak także tego tej ten to tych tylko tym u w we więc z za ze że""",
    ),
    _language(
        "cs",
        "LATIN",
        """a aby aj ale ani až bez bude by byl byla bylo být co či další do i ho jak jako je jeho
        její jejich jen jenž ještě již jsem jsou k kde kdo když která které který mezi
        mi může na nad nebo není než o od po pod podle pokud pro proto před přes při s
        se si svůj ta tak také tato tedy tento to toho tom u v ve však vše z za ze že""",
    ),
    _language(
        "tr",
        "LATIN",
        """ama ancak bir biri bu buna bunu bunun çok da daha de değil diye eğer en gibi göre hem
        hep her için ile ise kadar karşı ki kim mı mi mu mü nasıl ne neden o olan olarak
        oldu olduğu olduğunu olur onun sonra şey şu tarafından tüm üzere var ve veya ya
        yani yok""",
    ),
    _language(
        "ca",
        "LATIN",
        """a al als amb això aquest aquesta aquests bé cada com d de del dels des el ella ells els
        em en entre era és ésser està és fins ha han hi i ja l la les li llur més mentre
        meu molt ni no nosaltres o on per perquè però poc qual quan que què quin s sa se
        ser seu seva si sobre sols són sota també tot tots un una unes uns va""",
    ),
    _language(
        "id",
        "LATIN",
        """ada adalah agar akan antara apa atau bagi bahwa banyak beberapa bisa bukan dalam dan
        dapat dari dengan di dia hanya harus hingga ini itu jika juga karena ke kepada
        kita lain lebih maka mereka oleh pada para saat saja sangat saya secara sebagai
        sebuah secara sehingga seperti setelah suatu sudah telah tersebut tidak untuk
        yang""",
    ),
    _language(
        "ru",
        "CYRILLIC",
        """а без более бы был была были было быть в вам вас весь во вот все всех вы где да для до
        его ее если есть еще же за здесь и из или им их к как ко когда которые который
        кто ли между меня мне может мы на над не него нет ни но о об он она они оно от
        по под при с сам себя со так также там то того только том ты у уже чем что чтобы
        эта эти это этот я""",
    ),
    _language("el", "GREEK", "αλλά αν από για δεν είναι η θα και με μια να ο οι που σε στη στο τα"),
    _language(
        "ar", "ARABIC", "أن إلى التي الذي أو إن ثم على عن في قد كان لا لم ما مع من هذا هذه هو"
    ),
    _language("fa", "ARABIC", "است از این با باید به برای بود تا دارد در را شد شود که می های و یک"),
    _language("hi", "DEVANAGARI", "और एक कर का कि की के को पर भी में यह से है हैं ने नहीं था"),
    _language("ta", "TAMIL", "அது அந்த இந்த இது என என்று ஒரு ஓர் மற்றும்"),
    _language("hy", "ARMENIAN", "այս այդ են է եւ և են թե ի իր մի որ"),
)
"""The first of each script is the one of texts that no frequent word tells apart."""

BY_CODE: Final = {language.code: language for language in LANGUAGES}
SCRIPTS: Final = tuple(dict.fromkeys(language.script for language in LANGUAGES))


def in_script(script: str, codes: Sequence[str] = ()) -> tuple[Language, ...]:
    """Return the languages that are written in ``script``; only ``codes`` if any of them are.

    They are in the order of ``codes``.
    """
    written = {language.code: language for language in LANGUAGES if language.script == script}
    return tuple(written[code] for code in codes if code in written) or tuple(written.values())


def stop_word_counts(words: Iterable[str]) -> Counter[str]:
    """Return how many of ``words`` are stop words of each language, by its code."""
    counts: Counter[str] = Counter()
    for codes, count in Counter(filter(None, map(_CODES.get, words))).items():
        for code in codes:
            counts[code] += count
    return counts


def _codes_by_word() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for language in LANGUAGES:
        for word in language.stop_words:
            found[word] = (*found.get(word, ()), language.code)
    return found | {word.capitalize(): codes for word, codes in found.items()}


_CODES: Final = _codes_by_word()
"""The languages of each stop word, also as it begins a sentence."""
