//! Pages of every kind, hostile ones included.

use std::time::{Duration, Instant};

use super::*;

fn html(text: &str) -> Described {
    read(text.as_bytes(), "text/html; charset=utf-8")
}

fn title(text: &str) -> Option<String> {
    html(text).title
}

fn page_with(head: &str) -> String {
    format!("<!doctype html><html><head>{head}</head><body><p>text</p></body></html>")
}

#[test]
fn open_graph_has_precedence() {
    let page = page_with(
        r#"<title>plain</title>
           <meta name="description" content="plain description">
           <meta name="twitter:title" content="bird"><meta name="twitter:image" content="/bird.png">
           <meta property="og:title" content="open"><meta property="og:description" content="open description">
           <meta property="og:image" content="/first.png"><meta property="og:image" content="/second.png">"#,
    );
    let described = html(&page);
    assert_eq!(described.title.as_deref(), Some("open"));
    assert_eq!(described.description.as_deref(), Some("open description"));
    assert_eq!(described.image.as_deref(), Some("/first.png"));

    let page =
        page_with(r#"<title>plain</title><meta name=twitter:title content=bird><meta name=Description content=d>"#);
    let described = html(&page);
    assert_eq!(described.title.as_deref(), Some("bird"));
    assert_eq!(described.description.as_deref(), Some("d"));
    assert_eq!(described.image, None);

    let page = page_with(r#"<title>plain</title><meta property="og:title" content="  "><meta content="no name">"#);
    assert_eq!(title(&page).as_deref(), Some("plain"));
}

#[test]
fn entities_and_white_space_are_decoded() {
    for (head, expected) in [
        ("<title>Tom &amp; Jerry &lt;3 &#x1F600; &eacute;</title>", "Tom & Jerry <3 😀 é"),
        ("<title>\n  two\t\n words&nbsp;here </title>", "two words here"),
        ("<title>a<b>not an element</b></title>", "a<b>not an element</b>"),
        ("<TITLE>upper</TITLE>", "upper"),
        ("<title>first</title><title>second</title>", "first"),
        (r#"<meta property='og:title' content='&quot;quoted&quot; &amp;amp;'>"#, "\"quoted\" &amp;"),
    ] {
        assert_eq!(title(&page_with(head)).as_deref(), Some(expected), "{head}");
    }
}

#[test]
fn characters_that_control_the_display_are_removed() {
    let page = page_with("<title>safe\u{202E}gpj.exe\u{2066}\u{0}\u{7}\u{200B}&#x202E; 👩\u{200D}🚀</title>");
    assert_eq!(title(&page).as_deref(), Some("safegpj.exe\u{FFFD} 👩\u{200D}🚀"));
    for nothing in ["<title>\u{202E}&#x202E;\u{200B} \u{FEFF}</title>", "<title></title>", "<title> \n </title>", ""] {
        assert_eq!(title(&page_with(nothing)), None, "{nothing}");
    }
}

#[test]
fn long_texts_are_cut() {
    let long = "word ".repeat(100_000);
    let page = page_with(&format!("<title>{long}</title><meta name=description content='{long}'>"));
    let described = html(&page);
    let (title, description) = (described.title.unwrap(), described.description.unwrap());
    assert!(title.starts_with("word word") && title.ends_with('…'), "{title}");
    assert!((195..=MAX_TITLE_CHARACTERS).contains(&title.chars().count()), "{title}");
    assert!((395..=MAX_DESCRIPTION_CHARACTERS).contains(&description.chars().count()), "{description}");
    let exact = "é".repeat(MAX_TITLE_CHARACTERS);
    assert_eq!(clean(&exact, MAX_TITLE_CHARACTERS).as_ref(), Some(&exact));
    let cut = clean(&format!("{exact}x"), MAX_TITLE_CHARACTERS).unwrap();
    assert_eq!((cut.chars().count(), cut.chars().last()), (MAX_TITLE_CHARACTERS, Some('…')));
}

#[test]
fn only_elements_of_the_head_count() {
    for text in [
        page_with(r#"<script>"<title>script</title>"</script><style><title>style</title></style>"#),
        page_with("<!-- <title>comment</title> --><!-- <meta property=og:title content=comment> -->"),
        "<html><head></head><body><title>body</title><meta property=og:title content=body></body></html>".to_owned(),
        "<body><meta property=og:title content=body>".to_owned(),
        page_with("<noscript>text</noscript><textarea><title>text</title></textarea>"),
    ] {
        assert_eq!(title(&text), None, "{text}");
    }
    // The tags of head and body are optional.
    assert_eq!(title("<title>alone</title><p>text").as_deref(), Some("alone"));
    assert_eq!(title("<title>cut off in the tit").as_deref(), Some("cut off in the tit"));
}

#[test]
fn the_encoding_comes_from_the_mark_the_header_or_the_page() {
    let (latin, _, _) = encoding_rs::WINDOWS_1252.encode("<title>café – ok</title>");
    assert_eq!(read(&latin, "text/html; charset=ISO-8859-1").title.as_deref(), Some("café – ok"));
    // No statement: valid UTF-8 is UTF-8, and everything else is windows-1252.
    assert_eq!(read(&latin, "text/html").title.as_deref(), Some("café – ok"));
    assert_eq!(read("<title>café</title>".as_bytes(), "text/html").title.as_deref(), Some("café"));
    let (japanese, _, _) = encoding_rs::SHIFT_JIS.encode("<meta charset=\"Shift_JIS\"><title>日本語</title>");
    assert_eq!(read(&japanese, "text/html").title.as_deref(), Some("日本語"));
    let declared = "<meta http-equiv='Content-Type' content='text/html; charset=euc-kr'><title>한국어</title>";
    assert_eq!(read(&encoding_rs::EUC_KR.encode(declared).0, "text/html").title.as_deref(), Some("한국어"));
    // The header has precedence over the page, and the mark over the header.
    let wrong = "<meta charset=shift_jis><title>é</title>";
    assert_eq!(read(wrong.as_bytes(), "text/html;charset=\"utf-8\"").title.as_deref(), Some("é"));
    let mut utf16 = vec![0xFF, 0xFE];
    utf16.extend("<title>schön</title>".encode_utf16().flat_map(u16::to_le_bytes));
    assert_eq!(read(&utf16, "text/html; charset=utf-8").title.as_deref(), Some("schön"));
    // An unknown name, and UTF-16 in a page that is not UTF-16.
    assert_eq!(read(b"<title>a</title>", "text/html; charset=klingon").title.as_deref(), Some("a"));
    assert_eq!(read(b"<meta charset=utf-16><title>a</title>", "text/html").title.as_deref(), Some("a"));
}

#[test]
fn hostile_pages_end_soon_and_say_nothing() {
    let parts = [
        "<",
        "<a ",
        "<!--",
        "<![CDATA[",
        "</",
        "&",
        "&#",
        "<meta ",
        "<meta property=og:title ",
        "<title",
        "<svg><title>",
        "<script>",
        "\u{0}",
        "<div>",
        "<!doctype ",
        "<a b=\"",
        "&ngE;&ngE",
        "<meta content=\"",
        "-->",
        "<table><tr>",
    ];
    for part in parts {
        let text = part.repeat(400_000 / part.len());
        let begun = Instant::now();
        html(&text);
        assert!(begun.elapsed() < Duration::from_secs(10), "{part:?} took {:?}", begun.elapsed());
    }
    // Thousands of attributes in one element.
    let attributes: String = (0..40_000).map(|number| format!(" a{number}=b")).collect();
    assert_eq!(title(&page_with(&format!("<meta{attributes}><title>a</title>"))).as_deref(), Some("a"));
    // Bytes of other types.
    for bytes in [&b"%PDF-1.7 <title>"[..], b"\x1F\x8B\x08\x00\x00", b"\xFF\xFE", b"\xFE\xFF\xD8\x00", b"GIF89a<"] {
        assert_eq!(read(bytes, "text/html").description, None);
    }
}

#[test]
fn the_address_of_an_image_has_a_limit() {
    let long = "a".repeat(MAX_URL_CHARACTERS + 1);
    assert_eq!(html(&page_with(&format!("<title>a</title><meta property=og:image content='{long}'>"))).image, None);
    let data = html(&page_with("<title>a</title><meta property=og:image content=' data:image/png;base64,AAAA '>"));
    assert_eq!(data.image.as_deref(), Some("data:image/png;base64,AAAA"), "the client refuses this address");
}
