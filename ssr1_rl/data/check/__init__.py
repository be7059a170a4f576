"""`ssr1-rl data check`: reads every split and decodes every clip, and reports what is wrong.

`measure` decodes one file, `on_ray` many side by side, `findings` compares what came out, `report` holds the result.
"""
