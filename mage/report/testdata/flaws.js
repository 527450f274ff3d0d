// What somebody could not read on the page as it is shown now: WCAG 2.2, 1.4.3 and 1.4.10.
(() => {
  const flaws = [];
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) {
    const wide = [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > root.clientWidth + 1 && !e.closest("svg, .scroll"));
    flaws.push(`the page is ${root.scrollWidth} wide in a window of ${root.clientWidth}: ${wide.slice(0, 3).map(e => e.outerHTML.slice(0, 90)).join(" | ")}`);
  }
  const channels = color => (color.match(/[\d.]+/g) || []).map(Number);
  const luminance = color => {
    const [r, g, b] = channels(color).map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const contrast = (a, b) => {
    const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x);
    return (light + .05) / (dark + .05);
  };
  const opaque = color => color !== "transparent" && !(channels(color).length === 4 && channels(color)[3] === 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (opaque(color)) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  for (let node; (node = texts.nextNode());) {
    const e = node.parentElement, text = node.data.trim();
    if (!text || e.closest("title, script, style") || !e.checkVisibility()) continue;
    seen++;
    const style = getComputedStyle(e), drawn = e.closest("svg");
    const fore = drawn ? style.fill : style.color;
    const back = drawn ? getComputedStyle(e.parentElement.querySelector("rect")).fill : behind(e);
    const ratio = contrast(fore, back);
    if (ratio < 4.5) flaws.push(`"${text.slice(0, 40)}" has a contrast of ${ratio.toFixed(2)}: ${fore} on ${back}`);
    const size = parseFloat(style.fontSize) * (drawn ? e.getScreenCTM().a : 1);
    if (size < 10) flaws.push(`"${text.slice(0, 40)}" is ${size.toFixed(1)} px high`);
    if (drawn && e.getBBox().x + e.getBBox().width > e.ownerSVGElement.viewBox.baseVal.width) flaws.push(`"${text}" is drawn beyond the picture`);
    if (drawn && style.textAnchor === "start" && e.getBBox().x + e.getBBox().width > (r => r.x + r.width)(e.parentElement.querySelector("rect").getBBox())) flaws.push(`"${text}" is drawn beyond its box`);
  }
  if (seen < 20) flaws.push(`only ${seen} texts are shown`);
  return flaws;
})()
