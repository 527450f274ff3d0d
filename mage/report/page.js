// The page is whole without this: it only adds buttons that copy a command.
for (const block of document.querySelectorAll(".command")) {
  const button = document.createElement("button"), text = block.querySelector("code").textContent;
  button.type = "button";
  button.textContent = "copy";
  button.addEventListener("click", () => navigator.clipboard.writeText(text).then(() => { button.textContent = "copied"; }, () => { button.textContent = "select it"; }));
  block.append(button);
}
