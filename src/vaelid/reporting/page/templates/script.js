"use strict";
(() => {
  const root = document.documentElement;
  const dark = () => root.style.colorScheme ? root.style.colorScheme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const remember = (value) => { try { return value ? localStorage.setItem("vaelid-theme", value) : localStorage.getItem("vaelid-theme"); } catch { return null; } };
  const show = (button) => { button.textContent = dark() ? "Light theme" : "Dark theme"; };
  const kept = remember();
  if (kept === "dark" || kept === "light") root.style.colorScheme = kept;
  addEventListener("DOMContentLoaded", () => {
    const button = document.querySelector(".theme");
    button.hidden = false;
    show(button);
    button.addEventListener("click", () => { root.style.colorScheme = dark() ? "light" : "dark"; remember(root.style.colorScheme); show(button); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(button));
  });
})();
