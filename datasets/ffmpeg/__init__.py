"""Files with pictures and sound, read and written by ffmpeg as a child under limits; pictures and sound on one clock.

probe -> film (film_command, film_sinks)   what a file holds; its frames and samples as a stream
timing                                     what was found on the source's clock
media, media_write, media_stream           a film at once; writing one; writing one while it is made
still, fragments                           a picture as a frame; how far a fragmented mp4 has come
ffmpeg_child, ffmpeg_pipes, ffmpeg_program the child that does all of it
"""
