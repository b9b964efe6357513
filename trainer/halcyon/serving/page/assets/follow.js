// Keeps the end of the page in view while an answer comes, unless the user has scrolled up to read.

const NEAR_PIXELS = 120;

/** Scrolls to the end whenever `element` grows while the end is in view. Returns a function that scrolls to the end now. */
export function followEnd(element) {
  const page = document.scrollingElement;
  let near = true;
  const toEnd = () => page.scrollTo({ top: page.scrollHeight, behavior: "instant" });
  addEventListener("scroll", () => (near = page.scrollHeight - page.scrollTop - page.clientHeight < NEAR_PIXELS), { passive: true });
  new ResizeObserver(() => near && toEnd()).observe(element);
  return () => {
    near = true;
    toEnd();
  };
}
