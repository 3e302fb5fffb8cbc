"""Sentences in many languages, and the legacy encodings in which they are written."""

from typing import Final

SENTENCES: Final = {
    "en": (
        "The keeper’s notes say “close the upper valve first” – the café opens at nine, and n"
        "obody’s résumé mentions the façade. It costs €12."
    ),
    "de": (
        "Die Dichtung am Kühler muß größer sein, sonst läuft das Öl in die Wanne. Bitte prüfe"
        "n Sie täglich, ob die Türen für Gäste geöffnet sind."
    ),
    "fr": (
        "Le contrôle des pompes a été effectué à la fin du mois; le débit était très élevé. O"
        "ù sont passées les clés de la réserve? Ça, c’est déjà réglé."
    ),
    "es": (
        "La válvula de la caldera se cerró después del mediodía y el técnico señaló que la pr"
        "esión había bajado. ¿Cuándo llegará el próximo camión?"
    ),
    "pt": (
        "A manutenção da máquina não começou porque a peça ainda está em produção. Amanhã hav"
        "erá uma reunião às três horas no pátio."
    ),
    "sv": (
        "Pumpen på övre våningen läcker när trycket är för högt. Gör en ny mätning innan någo"
        "n öppnar luckan i källaren."
    ),
    "da": (
        "Nøglen til skuret ligger på hylden ved døren. Husk at lukke både køleren og ovnen, f"
        "ør du går hjem på søndag."
    ),
    "pl": (
        "Zawór bezpieczeństwa należy sprawdzić przed każdą zmianą. Jeśli ciśnienie wzrośnie, "
        "proszę natychmiast wyłączyć pompę i zgłosić usterkę."
    ),
    "cs": (
        "Klíč od skladu leží v zelené zásuvce u dveří. Při výměně těsnění je třeba nejdříve u"
        "zavřít přívod vody a počkat, až tlak klesne."
    ),
    "hu": (
        "A szivattyú nyomását minden hétfőn ellenőrizni kell. Ha a hőmérséklet túl magas, kér"
        "jük, állítsa le a gépet és értesítse a műszerészt."
    ),
    "hr": (
        "Ključ od skladišta leži u zelenoj ladici kraj vrata. Prije čišćenja isključite uređa"
        "j i pričekajte da se tlak smanji još više."
    ),
    "ru": (
        "Запасной ключ от склада лежит в зелёном ящике у окна. Перед запуском насоса проверьт"
        "е давление и закройте верхний клапан."
    ),
    "uk": (
        "Запасний ключ від складу лежить у зеленій шухляді біля вікна. Перед пуском насоса пе"
        "ревірте тиск і закрийте верхній клапан."
    ),
    "bg": (
        "Резервният ключ за склада е в зеленото чекмедже до прозореца. Преди пускане на помпа"
        "та проверете налягането и затворете клапана."
    ),
    "el": (
        "Το εφεδρικό κλειδί της αποθήκης βρίσκεται στο πράσινο συρτάρι δίπλα στο παράθυρο. Ελ"
        "έγξτε την πίεση πριν ξεκινήσετε την αντλία."
    ),
    "tr": (
        "Deponun yedek anahtarı pencerenin yanındaki yeşil çekmecede duruyor. Pompayı çalıştı"
        "rmadan önce basıncı ölçün ve üst vanayı kapatın."
    ),
    "he": (
        "המפתח הרזרבי של המחסן נמצא במגירה הירוקה ליד החלון. לפני הפעלת המשאבה יש לבדוק את הל"
        "חץ ולסגור את השסתום העליון."
    ),
    "ar": (
        "المفتاح الاحتياطي للمستودع موجود في الدرج الأخضر بجانب النافذة. قبل تشغيل المضخة يجب"
        " فحص الضغط وإغلاق الصمام العلوي."
    ),
    "lt": (
        "Atsarginis sandėlio raktas guli žaliame stalčiuje prie lango. Prieš įjungdami siurbl"
        "į, patikrinkite slėgį ir uždarykite viršutinį vožtuvą."
    ),
    "th": ("กุญแจสำรองของคลังสินค้าอยู่ในลิ้นชักสีเขียวข้างหน้าต่าง ก่อนเปิดปั๊มให้ตรวจสอบแรงดันและปิดวาล์วด้านบนทุกครั้ง"),
    "ko": (
        "창고 열쇠는 창가에 있는 초록색 서랍에 들어 있습니다. 펌프를 켜기 전에"
        " 압력을 점검하고 위쪽 밸브를 잠그십시오. 매주 월요일에는 담당자가 기록"
        "을 확인합니다."
    ),
    "ja": (
        "倉庫の予備の鍵は窓のそばの緑色の引き出しに入っています。ポンプを動かす前に圧力を"
        "点検し、上のバルブを閉めてください。毎週月曜日に担当者が記録を確認します。"
    ),
    "zh-Hans": (
        "仓库的备用钥匙放在窗边的绿色抽屉里。启动水泵之前请检查压力，并关闭上面的阀门。每"
        "个星期一由负责人核对记录。"
    ),
    "zh-Hant": (
        "倉庫的備用鑰匙放在窗邊的綠色抽屜裡。啟動水泵之前請檢查壓力，並關閉上面的閥門。每"
        "個星期一由負責人核對記錄。"
    ),
}
"""By language, as ISO 639-1 names it, and for Chinese also by script."""
ENCODINGS: Final = {
    "cp1252": ("en", "de", "fr", "es", "pt", "sv", "da"),
    "iso8859-15": ("de", "fr"),
    "cp1250": ("pl", "cs", "hu", "hr"),
    "iso8859-2": ("pl", "cs", "hu"),
    "cp1251": ("ru", "uk", "bg"),
    "koi8-r": ("ru",),
    "cp866": ("ru",),
    "cp1253": ("el",),
    "iso8859-7": ("el",),
    "cp1254": ("tr",),
    "cp1255": ("he",),
    "cp1256": ("ar",),
    "cp1257": ("lt",),
    "cp874": ("th",),
    "cp949": ("ko",),
    "cp932": ("ja",),
    "euc_jp": ("ja",),
    "gb18030": ("zh-Hans",),
    "cp950": ("zh-Hant",),
}
"""The languages that are written in each legacy encoding."""
