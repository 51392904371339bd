import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

export default defineConfig({
  plugins: [react()],
  publicDir: "node_modules/@grafana/ui/dist/public", // the icons
  define: { "process.env.NODE_ENV": '"production"', global: "globalThis" },
  build: { target: "esnext", chunkSizeWarningLimit: 20000, minify: false, sourcemap: false },
  logLevel: "warn",

});
