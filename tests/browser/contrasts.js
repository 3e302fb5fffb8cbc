// Every element of the page with text of its own: the contrast of that with what is behind it.
() => {
  const parsed = (color) => {
    const [red, green, blue, alpha = 1] = color.match(/[\d.]+/g).map(Number);
    return { rgb: [red, green, blue], alpha };
  };
  const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const luminance = (rgb) => {
    const [red, green, blue] = rgb.map((value) => linear(value / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const ground = (element) => {
    const { rgb, alpha } = parsed(getComputedStyle(element).backgroundColor);
    return alpha === 1 ? rgb : ground(element.parentElement);
  };
  const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const hasText = (element) =>
    [...element.childNodes].some(
      (node) => node.nodeType === Node.TEXT_NODE && node.data.trim() !== "",
    );
  return [...document.querySelectorAll("body *")]
    .filter((element) => hasText(element) && element.checkVisibility())
    .filter((element) => element.closest("noscript, svg, .skip") === null)
    .map((element) => [
      contrast(luminance(parsed(getComputedStyle(element).color).rgb), luminance(ground(element))),
      element.outerHTML.slice(0, 120),
    ]);
}
